"""What Airflow reads about the provider."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

from airflow_provider_kernel import __version__
from airflow_provider_kernel.get_provider_info import get_provider_info


def test_airflow_finds_the_provider_by_its_entry_point():
    found = [point for point in entry_points(group="apache_airflow_provider") if "kernel" in point.value]
    assert [point.load() for point in found] == [get_provider_info]


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_the_description_fits_airflows_schema(schema):
    rules = json.loads((Path(airflow.__file__).parent / schema).read_text())
    # The second is that of the file a provider of Airflow's own repository is described in: it knows the
    # connection form, but asks for fields about releases that only that repository has.
    rules.pop("required", None)
    info = {key: value for key, value in get_provider_info().items() if key != "versions"}
    jsonschema.validate(info, rules)


def test_all_that_the_description_names_exists():
    info = get_provider_info()
    for kind in ("hooks", "operators", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    module, _, name = info["connection-types"][0]["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), name).conn_type == "kernel"
    assert info["versions"] == [__version__]


def test_the_form_that_airflow_shows_has_token_address_project_and_timeout():
    form = next(hook for hook in HookMetaService.hook_meta_data() if hook.connection_type == "kernel")
    assert form.hook_name == "Kernel"
    assert form.standard_fields.password.title == "Token"
    assert not form.standard_fields.password.hidden
    assert form.standard_fields.host.title == "API address"
    assert form.standard_fields.login.hidden
    assert form.standard_fields.port.hidden
    assert set(form.extra_fields) == {"project", "timeout", "dashboard_url"}
    for field in form.extra_fields.values():
        # A typed field that is not nullable cannot be left empty: the form would not save.
        assert "null" in field["schema"]["type"]
        assert field["value"] is None
