"""
The connection's form, defined once.

Airflow 3.2 and later read it as data from the provider's description; earlier ones ask :class:`KernelHook`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ExtraField:
    """
    A field that is stored in the connection's extra.

    :param name: under which it is stored.
    :param label: before it in the form.
    :param description: below it.
    :param type: JSON Schema's: ``string``, ``integer`` or ``boolean``.
    :param range: the least and the greatest number that are taken.
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
    ExtraField(
        "timeout", "Timeout", "Seconds that Kernel has for a reply; empty for 30.", "integer", (1, 3600)
    ),
    ExtraField(
        "max_response_mb",
        "Largest reply",
        "Megabytes that an output with its payload may have; empty for 64.",
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
        "true (as when empty), false, or the path of a file with the certificates of your own CA.",
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
        "Where the link of a task leads; {invocation_id} and {project} are filled in.",
    ),
)
HIDDEN_FIELDS = ("schema", "login", "extra")
# The port is shown because Airflow 3.3.2 refuses to test a stored connection that has none.
LABELS = {"password": "Token", "host": "API address", "port": "Port"}
PLACEHOLDERS = {
    "password": "sk_…",
    "host": "https://api.onkernel.com",
    "port": "443; Airflow's Test button needs one",
}


def as_data() -> dict[str, Any]:
    """Return the form as an entry of ``connection-types`` in the provider's description has it."""
    return {
        "ui-field-behaviour": {key.replace("_", "-"): value for key, value in field_behaviour().items()},
        "conn-fields": {
            field.name: {"label": field.label, "schema": _schema(field), "description": field.description}
            for field in EXTRA_FIELDS
        },
    }


def _schema(field: ExtraField) -> dict[str, Any]:
    # Nullable: Airflow's form does not save an empty field that is not.
    schema: dict[str, Any] = {"type": [field.type, "null"]}
    if field.range:
        schema["minimum"], schema["maximum"] = field.range
    return schema


def field_behaviour() -> dict[str, Any]:
    """Return how the connection's own fields are shown, for ``get_ui_field_behaviour``."""
    return {
        "hidden_fields": list(HIDDEN_FIELDS),
        "relabeling": LABELS,
        "placeholders": PLACEHOLDERS,
    }


def widgets() -> dict[str, Any]:
    """Return the fields of the extra, for ``get_connection_form_widgets``; none without Flask-AppBuilder."""
    try:
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from wtforms import BooleanField, IntegerField, StringField
        from wtforms.validators import NumberRange, Optional
    except ImportError:  # Airflow 3.0 without the provider fab; else all labels would be lost
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
