"""
Runs one action of a Kernel app.

The Dag needs a connection ``kernel_default`` of type *Kernel* with an API key, and the app ``bookshop``, which lies
beside it in ``apps/bookshop``. While the app runs, the task is deferred: it holds no worker, and the lines that
the app logs appear in the task's log. What the action returns is in XCom afterwards.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG(
    "example_kernel_invoke",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
):
    KernelInvokeOperator(
        task_id="price_report",
        app_name="bookshop",
        action_name="price-report",
        payload={"pause_seconds": 1},
    )
