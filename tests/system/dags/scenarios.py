"""The Dags of the system tests: one task each, named for what it shows."""

from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

#: Seconds that an action lasts, at least: Airflow may fail a task whose deferral is over sooner, as it has then not
#: noticed yet that its first process has ended (apache/airflow#66374). On a busy machine that takes many seconds.
SAFE = 20
TALK = {"lines": SAFE, "greeting": "grüezi", "nested": [1, None, {"a": 2.5}]}
FOR_EVER = {"lines": 600}


def scenario(dag_id: str, action_name: str = "talk", payload: Any = None, **arguments: Any) -> None:
    """Make a Dag whose one task, ``invoke``, has these arguments."""
    with DAG(dag_id, schedule=None):
        KernelInvokeOperator(
            task_id="invoke",
            app_name="system-tests",
            action_name=action_name,
            payload=payload or TALK,
            **{"defer_after": 0, **arguments},
        )


scenario("success_deferrable", defer_after=5)
scenario("success_on_worker", deferrable=False)
scenario("success_in_one_call", async_=False)
scenario("templated", payload={"lines": SAFE, "run": "{{ run_id }}", "sku": "{{ dag_run.conf['sku'] }}"})
scenario("fire_and_forget", wait_for_completion=False)
scenario("failure_deferrable", "fail", {"after": SAFE})
scenario("failure_on_worker", "fail", {"after": SAFE}, deferrable=False)
scenario("timeout_deferrable", payload=FOR_EVER, timeout=SAFE)
scenario("timeout_on_worker", payload=FOR_EVER, timeout=SAFE, deferrable=False)
scenario("for_ever", payload=FOR_EVER)
scenario("wrong_token", kernel_conn_id="kernel_wrong_token", retries=2)
