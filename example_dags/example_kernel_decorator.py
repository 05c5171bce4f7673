"""
A function makes the payload of an action: here, of what another task has found out.

The function runs in the task, just before the invocation is submitted. What it returns is the payload; what the
task returns is the action's output.
"""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

with DAG(
    "example_kernel_decorator",
    schedule=None,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["kernel"],
    doc_md=__doc__,
):

    @task
    def wanted():
        """Say what to look for, as a database might."""
        return ["Poetry", "Travel"]

    @task.kernel(app_name="bookshop", action_name="price-report")
    def price_report(genres, ti=None):
        """Return the payload."""
        return {"genres": sorted(genres), "pause_seconds": 0.2 * ti.try_number}

    @task
    def cheapest(report):
        """Return the title of the cheapest book."""
        return report["cheapest"]["title"]

    cheapest(price_report(wanted()))
