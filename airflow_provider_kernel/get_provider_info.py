"""What Airflow reads about this provider: among other things the form of its connection."""

from __future__ import annotations

from typing import Any

from airflow_provider_kernel import __version__

_OPTIONAL_TEXT = ["string", "null"]


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
            {"integration-name": integration, "python-modules": ["airflow_provider_kernel.triggers.kernel"]}
        ],
        "connection-types": [
            {
                "connection-type": "kernel",
                "hook-name": "Kernel",
                "hook-class-name": "airflow_provider_kernel.hooks.kernel.KernelHook",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port", "extra"],
                    "relabeling": {"password": "Token", "host": "API address"},
                    "placeholders": {"password": "sk_…", "host": "https://api.onkernel.com"},
                },
                # An optional field is nullable: the form blocks saving an empty one that is not.
                "conn-fields": {
                    "project": {
                        "label": "Project",
                        "schema": {"type": _OPTIONAL_TEXT},
                        "description": "Name or id of a Kernel project; empty for the token's default project.",
                    },
                    "timeout": {
                        "label": "Timeout",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "maximum": 3600},
                        "description": "Seconds that Kernel has for a reply; empty for 30.",
                    },
                    "dashboard_url": {
                        "label": "Dashboard address",
                        "schema": {"type": _OPTIONAL_TEXT},
                        "description": "Where a task's link leads; {invocation_id} and {project} are filled in.",
                    },
                },
            }
        ],
    }
