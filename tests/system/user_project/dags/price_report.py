"""Reads the prices of some products each morning, and reports them."""

from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG(
    "price_report",
    schedule="0 6 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"urls": ["https://shop.example/lamp", "https://shop.example/chair"]},
    default_args={"retries": 1, "retry_delay": timedelta(minutes=5)},
    doc_md=__doc__,
) as dag:

    @task
    def pages(params=None):
        return [{"url": url} for url in params["urls"]]

    read = KernelInvokeOperator.partial(
        task_id="read",
        app_name="prices",
        action_name="read",
        async_timeout_seconds=120,
        map_index_template="{{ task.payload['url'] }}",
    ).expand(payload=pages())

    @task.kernel(app_name="reports", action_name="write", trigger_rule="all_done", async_timeout_seconds=60)
    def report(prices, ds=None):
        return {"prices": list(prices), "day": ds}

    report(read.output)
