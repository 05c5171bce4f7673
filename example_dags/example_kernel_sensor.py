"""
Starts an invocation in one task, and waits for its end in another.

Between the two is room for tasks that need not wait, and the two fail, and are retried, apart: if the second one is
cleared, it waits again, and the action is not run a second time. Needs the connection and the app of
``example_kernel_invoke``.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor

with DAG(
    "example_kernel_sensor",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
):
    start = KernelInvokeOperator(
        task_id="start",
        app_name="bookshop",
        action_name="price-report",
        payload={"pause_seconds": 1},
        wait_for_completion=False,  # the task's result is the invocation's id
    )
    KernelInvocationSensor(task_id="wait", invocation_id=start.output, timeout=600)
