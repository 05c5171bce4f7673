"""The description of this provider that Airflow reads, with the form of its connection."""

from __future__ import annotations

from typing import Any

from airflow_provider_kernel import __version__
from airflow_provider_kernel.hooks import connection_form


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description; the entry point ``apache_airflow_provider`` names this function."""
    integration = "Kernel"
    return {
        "package-name": "airflow-provider-kernel",
        "name": "Kernel",
        "description": "Run the actions of `Kernel <https://www.kernel.sh>`__ apps from a Dag.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": integration,
                "external-doc-url": "https://www.kernel.sh/docs",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": integration,
                "python-modules": [
                    "airflow_provider_kernel.hooks.kernel",
                    "airflow_provider_kernel.hooks.kernel_async",
                ],
            }
        ],
        "operators": [
            {"integration-name": integration, "python-modules": ["airflow_provider_kernel.operators.kernel"]}
        ],
        "sensors": [
            {"integration-name": integration, "python-modules": ["airflow_provider_kernel.sensors.kernel"]}
        ],
        "extra-links": ["airflow_provider_kernel.links.kernel.KernelInvocationLink"],
        "triggers": [
            {
                "integration-name": integration,
                "python-modules": [
                    "airflow_provider_kernel.triggers.kernel",
                    "airflow_provider_kernel.triggers.capacity",
                    "airflow_provider_kernel.triggers.finished",
                ],
            }
        ],
        "task-decorators": [
            {"name": "kernel", "class-name": "airflow_provider_kernel.decorators.kernel.kernel_task"}
        ],
        "connection-types": [
            {
                "connection-type": "kernel",
                "hook-name": "Kernel",
                "hook-class-name": "airflow_provider_kernel.hooks.kernel.KernelHook",
                **connection_form.as_data(),
            }
        ],
    }
