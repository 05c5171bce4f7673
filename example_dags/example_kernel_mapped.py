"""
Runs one invocation for each genre, side by side, and compares what they return.

The tasks are deferred: they wait in the triggerer and hold no workers.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG(
    "example_kernel_mapped",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
):
    reports = KernelInvokeOperator.partial(
        task_id="price_report",
        app_name="bookshop",
        action_name="price-report",
    ).expand(payload=[{"genres": [genre]} for genre in ("Art", "Cooking", "Poetry", "Travel")])

    @task
    def cheapest_genre(reports):
        """Return the genre whose books cost least on average."""
        averages = {}
        for report in reports:
            averages |= report["average_prices"]
        return min(averages, key=averages.get)

    cheapest_genre(reports.output)
