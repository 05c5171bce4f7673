"""The plugin for pytest, as pytest loads it in a test of pytester."""

from __future__ import annotations

from importlib.metadata import entry_points

PLUGIN = "airflow_provider_kernel.testing.plugin"
#: pytest loads an installed plugin by itself, and refuses to load it twice.
IS_INSTALLED = any(entry_point.value == PLUGIN for entry_point in entry_points(group="pytest11"))
ARGUMENTS = ("-p", "no:cacheprovider", *(() if IS_INSTALLED else ("-p", PLUGIN)))
