"""Many more tasks than the account takes at a time, without a pool."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

TASKS = 20

with DAG("once_full_account", schedule=None, max_active_tasks=TASKS):
    KernelInvokeOperator.partial(
        task_id="invoke",
        app_name="system-tests",
        action_name="talk",
        kernel_conn_id="kernel_full",
        defer_after=0,
        # Airflow itself fails some deferrals that last a few seconds only; the retry takes the invocation up.
        retries=3,
        retry_delay=timedelta(seconds=2),
    ).expand(payload=[{"lines": 5, "task": number} for number in range(TASKS)])
