"""
Runs whenever price reports are ready, wherever they were asked for: in another Dag, by a script, by a colleague.

A watcher sees the invocations of the app ``bookshop`` that have succeeded. An event of the asset tells of all that
have ended since the last one, and Airflow may hand several events to one run, so there is a task for each end in them.

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
    def finished(triggering_asset_events=None):
        """Return the ids of the reports' invocations: none, if somebody started this run by hand."""
        events = triggering_asset_events[price_reports] if triggering_asset_events else []
        ends = [end for event in events for end in event.extra.get("payload", {}).get("invocations", [])]
        return sorted({end["invocation_id"] for end in ends})

    @task
    def cheapest_book(invocation_id: str):
        """Return the cheapest book of a report."""
        with KernelHook() as kernel:
            return kernel.get_invocation(invocation_id).output["cheapest"]["title"]

    cheapest_book.expand(invocation_id=finished())
