"""The Dags that the ends of invocations start: of one action, and of the failed ones of the whole app."""

from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_provider_kernel.triggers.finished import KernelInvocationFinishedTrigger


def watched(name: str, **arguments: str) -> None:
    """Make a Dag that returns the ids of the invocations whose ends started it."""
    trigger = KernelInvocationFinishedTrigger(
        app_name="watched", kernel_conn_id="kernel_watched", poll_interval=10, **arguments
    )
    asset = Asset(name, watchers=[AssetWatcher(name=f"{name}_watcher", trigger=trigger)])
    with DAG(f"once_{name}", schedule=asset):

        @task
        def ids(triggering_asset_events=None):
            ended = [event.extra["payload"]["invocations"] for event in triggering_asset_events[asset]]
            return [one["invocation_id"] for ones in ended for one in ones]

        ids()


watched("watched_work", action_name="work", status="any")
watched("watched_failed", status="failed")
