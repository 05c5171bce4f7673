"""The connection's form, as the Airflow that is installed will show it: each version asks in its own way."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from airflow.providers_manager import ProvidersManager

from airflow_provider_kernel.api.settings import KernelSettings
from airflow_provider_kernel.hooks import connection_form

try:
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
except ImportError:  # Airflow 2
    HookMetaService = None

LABELS = {
    "project": "Project",
    "timeout": "Timeout",
    "max_response_mb": "Largest reply",
    "proxy": "Proxy",
    "verify": "Verify TLS",
    "allow_http": "Allow http",
    "dashboard_url": "Dashboard address",
}
TYPES = {
    "project": "string",
    "timeout": "integer",
    "max_response_mb": "integer",
    "proxy": "string",
    "verify": "string",
    "allow_http": "boolean",
    "dashboard_url": "string",
}


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """What Airflow shows: the fields of the connection itself, and those of its extra."""
    if HookMetaService:
        found = next(hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "kernel")
        standard = found.standard_fields.model_dump()
        hidden = {name.removeprefix("url_") for name, field in standard.items() if field and field["hidden"]}
        return {
            "name": found.hook_name,
            "hidden": hidden,
            "labels": {name: field["title"] for name, field in standard.items() if field and field["title"]},
            "placeholders": {n: f["placeholder"] for n, f in standard.items() if f and f["placeholder"]},
            "types": {name: field["schema"]["type"] for name, field in found.extra_fields.items()},
            "extra labels": {name: field["schema"]["title"] for name, field in found.extra_fields.items()},
            "descriptions": {name: field["description"] for name, field in found.extra_fields.items()},
            "values": {field["value"] for field in found.extra_fields.values()},
        }
    manager = ProvidersManager()
    behaviour = manager.field_behaviours["kernel"]
    prefix = "extra__kernel__"
    widgets = {
        name.removeprefix(prefix): widget.field
        for name, widget in manager.connection_form_widgets.items()
        if name.startswith(prefix)
    }
    classes = {"StringField": "string", "IntegerField": "integer", "BooleanField": "boolean"}
    return {
        "name": manager.hooks["kernel"].hook_name,
        "hidden": set(behaviour["hidden_fields"]) - {"extra"},
        "labels": behaviour["relabeling"],
        "placeholders": behaviour["placeholders"],
        "types": {name: [classes[field.field_class.__name__], "null"] for name, field in widgets.items()},
        "extra labels": {name: field.args[0] for name, field in widgets.items()},
        "descriptions": {name: field.kwargs["description"] for name, field in widgets.items()},
        "values": {field.kwargs.get("default") for field in widgets.values()},
    }


def test_form_shows_token_address_and_port_only(shown):
    assert shown["name"] == "Kernel"
    assert shown["labels"] == {"password": "Token", "host": "API address", "port": "Port"}
    assert shown["hidden"] == {"login", "schema"}
    assert shown["placeholders"]["host"] == "https://api.onkernel.com"


def test_form_shows_a_field_for_every_extra_in_order(shown):
    assert list(shown["extra labels"].items()) == list(LABELS.items())
    assert all(text.endswith(".") for text in shown["descriptions"].values())


def test_form_allows_every_extra_to_be_empty(shown):
    # A typed field that is not nullable cannot be: the form would not save.
    assert shown["types"] == {name: [type_, "null"] for name, type_ in TYPES.items()}
    assert shown["values"] == {None}


def test_connection_is_usable_when_it_is_saved_from_an_empty_form():
    empty = dict.fromkeys(LABELS)
    assert KernelSettings.from_connection(
        "c", password="sk_x", host="", port=0, extra=empty
    ) == KernelSettings("sk_x")


def test_form_shows_the_connections_fields_without_flask_appbuilder(monkeypatch):
    monkeypatch.setitem(sys.modules, "flask_appbuilder", None)
    monkeypatch.setitem(sys.modules, "flask_appbuilder.fieldwidgets", None)

    assert connection_form.widgets() == {}
