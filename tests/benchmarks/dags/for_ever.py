"""A task that waits until it is killed."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG("for_ever", schedule=None):
    KernelInvokeOperator(
        task_id="invoke", defer_after=0, app_name="system-tests", action_name="talk", payload={"lines": 600}
    )
