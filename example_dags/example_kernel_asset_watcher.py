"""
Runs whenever price reports are ready, wherever they were asked for: in another Dag, by a script, by a colleague.

A watcher sees the invocations of the app ``bookshop`` that have succeeded, and each is an event of the asset. Airflow
may start one run for several events that come together, so the task goes through all of them.

Needs Airflow 3, which is the first to have an ``AssetWatcher``.
"""

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.triggers.finished import KernelInvocationFinishedTrigger

price_reports = Asset(
    "kernel_price_reports",
    watchers=[
        AssetWatcher(
            name="price_report_finished",
            trigger=KernelInvocationFinishedTrigger(app_name="bookshop", action_name="price-report"),
        )
    ],
)

with DAG("example_kernel_asset_watcher", schedule=price_reports, tags=["kernel"], doc_md=__doc__):

    @task
    def cheapest_books(triggering_asset_events=None):
        """Return the cheapest book of each report."""
        events = triggering_asset_events[price_reports] if triggering_asset_events else []
        with KernelHook() as kernel:
            ended = [kernel.get_invocation(event.extra["payload"]["invocation_id"]) for event in events]
        return {invocation.id: invocation.output["cheapest"]["title"] for invocation in ended}

    cheapest_books()
