"""
Runs one invocation for each genre, and goes on with those that succeed: three of the six genres do not exist.

``trigger_rule="all_done"`` lets the task that collects the outputs run although some invocations have failed. It gets
the outputs of those that succeeded, without gaps, so the place of an output does not tell whose it is. The action
returns what identifies its payload: here the genre is a key of ``average_prices``.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

GENRES = ["Art", "Astrology", "Cooking", "Heraldry", "Poetry", "Pottery"]

with DAG(
    "example_kernel_tolerant",
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
):
    reports = KernelInvokeOperator.partial(
        task_id="price_report",
        app_name="bookshop",
        action_name="price-report",
        map_index_template="{{ task.payload['genres'][0] }}",
    ).expand(payload=[{"genres": [genre]} for genre in GENRES])

    @task(trigger_rule="all_done")
    def summary(reports):
        """Return the average price of each genre, and the genres of which there is no report."""
        averages = {}
        for report in reports:
            averages |= report["average_prices"]
        if not averages:
            raise ValueError("all invocations have failed")  # so that the Dag run fails, too
        return {"average_prices": averages, "failed": [genre for genre in GENRES if genre not in averages]}

    summary(reports.output)
