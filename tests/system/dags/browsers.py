"""Dags whose apps use browsers: one task each, ``invoke``, which visits the page ``site`` of the run's configuration."""

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator


def scenario(
    dag_id: str, action_name: str, app_name: str = "browsers-on-airflow", retries: int = 2, **arguments: Any
) -> None:
    """Make a Dag. Airflow may fail a task whose deferral is over soon, see ``scenarios``; the retry takes it up."""
    with DAG(dag_id, schedule=None):
        KernelInvokeOperator(
            task_id="invoke",
            app_name=app_name,
            action_name=action_name,
            retries=retries,
            retry_delay=timedelta(seconds=1),
            **{"kernel_conn_id": "kernel_browsers", **arguments},
        )


def visit(path: str) -> dict[str, str]:
    """Return a payload."""
    return {"url": f"{{{{ dag_run.conf['site'] }}}}/{path}"}


scenario("browser_script", "script", payload=visit("title"))
scenario("browser_controls", "controls", payload=visit("controls"))
scenario("browser_agent", "agent", payload=visit("agent"))
scenario(
    "browser_typescript",
    "press",
    "browsers-ts",
    payload=visit("typescript"),
    kernel_conn_id="kernel_typescript",
)
scenario("browser_for_ever_deferred", "for_ever", retries=0)
scenario("browser_for_ever_on_worker", "for_ever", retries=0, deferrable=False)
