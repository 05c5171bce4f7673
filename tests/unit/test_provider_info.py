"""What Airflow reads about the provider."""

from __future__ import annotations

import json
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_kernel.get_provider_info import get_provider_info

try:
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as ProvidersManager
except ImportError:  # before Airflow 3.2
    from airflow.providers_manager import ProvidersManager


@pytest.mark.parametrize("schema", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_provider_info_is_valid_by_airflows_schema(schema):
    rules = json.loads((Path(airflow.__file__).parent / schema).read_text())
    # The second is that of the file a provider of Airflow's own repository is described in: it knows the
    # connection form, but asks for fields about releases that only that repository has.
    rules.pop("required", None)
    info = {key: value for key, value in get_provider_info().items() if key != "versions"}
    jsonschema.validate(info, rules)


def test_airflow_finds_the_connection_type_and_its_hook():
    hook = ProvidersManager().hooks["kernel"]
    assert (hook.hook_name, hook.connection_id_attribute_name) == ("Kernel", "kernel_conn_id")
    assert hook.connection_testable
    assert hook.hook_class_name == "airflow_provider_kernel.hooks.kernel.KernelHook"
