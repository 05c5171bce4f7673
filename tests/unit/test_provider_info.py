"""What Airflow reads about the provider."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_kernel import __version__
from airflow_provider_kernel.get_provider_info import get_provider_info

try:
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as ProvidersManager
except ImportError:  # before Airflow 3.2
    from airflow.providers_manager import ProvidersManager


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
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    for decorator in info["task-decorators"]:
        module, _, name = decorator["class-name"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), name))
    module, _, name = info["connection-types"][0]["hook-class-name"].rpartition(".")
    assert getattr(importlib.import_module(module), name).conn_type == "kernel"
    assert [
        getattr(importlib.import_module(link.rpartition(".")[0]), link.rpartition(".")[2])
        for link in info["extra-links"]
    ]
    assert info["versions"] == [__version__]


def test_airflow_knows_the_connection_type_and_its_hook():
    hook = ProvidersManager().hooks["kernel"]
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("Kernel", "kernel_conn_id")
    assert hook.connection_testable
    assert hook.hook_class_name == "airflow_provider_kernel.hooks.kernel.KernelHook"
