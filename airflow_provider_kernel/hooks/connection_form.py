"""
The form of the connection, defined once.

Airflow 3.2 and later read it as data from the provider info, earlier versions from :class:`KernelHook`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExtraField:
    """
    A field of the form that is stored in the connection's extra.

    :param name: the key in the extra.
    :param label: the text before the field.
    :param description: the text below the field.
    :param type: JSON Schema's type: ``string``, ``integer`` or ``boolean``.
    :param range: minimum and maximum of a number; None for no limits.
    """

    name: str
    label: str
    description: str
    type: str = "string"
    range: tuple[int, int] | None = None


EXTRA_FIELDS = (
    ExtraField(
        "project", "Project", "Name or id of a Kernel project; empty for the token's default project."
    ),
    ExtraField("timeout", "Timeout", "Seconds for a reply; empty for 30.", "integer", (1, 3600)),
    ExtraField(
        "max_response_mb",
        "Largest reply",
        "Maximum megabytes of an output with its payload; empty for 64.",
        "integer",
        (1, 1024),
    ),
    ExtraField(
        "proxy",
        "Proxy",
        "Such as http://user:password@proxy:3128; empty for the environment's (HTTPS_PROXY).",
    ),
    ExtraField(
        "verify",
        "Verify TLS",
        "true (also if empty), false, or the path of a file with the certificates of your own CA.",
    ),
    ExtraField(
        "allow_http",
        "Allow http",
        "Send the token unencrypted to an http:// address that is not this machine.",
        "boolean",
    ),
    ExtraField(
        "dashboard_url",
        "Dashboard address",
        "Where a task's link leads; {invocation_id} and {project} are replaced.",
    ),
)
HIDDEN_FIELDS = ("schema", "login", "extra")
# The port is shown because Airflow 3.3.2 does not test a stored connection without one.
LABELS = {"password": "Token", "host": "API address", "port": "Port"}
PLACEHOLDERS = {
    "password": "sk_…",
    "host": "https://api.onkernel.com",
    "port": "443; Airflow's Test button needs one",
}


def as_data() -> dict[str, Any]:
    """Return the form as in an entry of ``connection-types`` in the provider info."""
    return {
        "ui-field-behaviour": {key.replace("_", "-"): value for key, value in field_behaviour().items()},
        "conn-fields": {
            field.name: {"label": field.label, "schema": _schema(field), "description": field.description}
            for field in EXTRA_FIELDS
        },
    }


def _schema(field: ExtraField) -> dict[str, Any]:
    # Nullable: otherwise Airflow's form does not save an empty field.
    schema: dict[str, Any] = {"type": [field.type, "null"]}
    if field.range:
        schema["minimum"], schema["maximum"] = field.range
    return schema


def field_behaviour() -> dict[str, Any]:
    """Return how the connection's standard fields are shown, for ``get_ui_field_behaviour``."""
    return {
        "hidden_fields": list(HIDDEN_FIELDS),
        "relabeling": LABELS,
        "placeholders": PLACEHOLDERS,
    }


def widgets() -> dict[str, Any]:
    """Return the fields of the extra, for ``get_connection_form_widgets``; empty without Flask-AppBuilder."""
    try:
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import NumberRange, Optional
    except ImportError:  # Airflow 3.0 without the provider fab; an error here would lose all labels
        return {}

    found = {}
    for field in EXTRA_FIELDS:
        if field.type == "boolean":
            found[field.name] = BooleanField(field.label, description=field.description)
            continue
        kind = IntegerField if field.type == "integer" else StringField
        validators = [Optional(), NumberRange(*field.range)] if field.range else [Optional()]
        found[field.name] = kind(
            field.label, validators=validators, description=field.description, widget=BS3TextFieldWidget()
        )
    return found
