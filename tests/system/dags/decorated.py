"""A mapped @task.kernel whose outputs are collected, and asset events that name their invocations."""

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, Asset, AssetAlias, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

APP = {"app_name": "system-tests", "action_name": "talk"}
#: Airflow itself fails some deferrals that last a few seconds only.
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=2)}
BY_ALIAS = Asset(name="talk_by_alias", uri="x-kernel://talk/by-alias")
ALIAS = AssetAlias("talk_alias")


def add_by_alias(context, result):
    """Add the alias's event once the result is known."""
    events = context["outlet_events"][ALIAS]
    events.add(BY_ALIAS, extra=dict(events.extra))


with DAG("decorated_mapped", schedule=None, default_args=RETRIES):

    @task
    def numbers():
        """Say what to map over."""
        return [1, 2, 3]

    @task.kernel(
        **APP,
        map_index_template="number {{ task.op_kwargs['number'] }}",
        multiple_outputs=True,
    )
    def talk(number, greeting, run_id=None):
        """Make the payload."""
        return {"lines": number, "greeting": greeting, "run": run_id, "raw": "{{ ds }}"}

    @task
    def collect(outputs):
        """Return what the invocations returned."""
        return [[output["lines"], output["greeting"], output["run"], output["raw"]] for output in outputs]

    collect(talk.partial(greeting="{{ dag_run.conf['sku'] }}").expand(number=numbers()))

with DAG("decorated_outlets", schedule=None, default_args=RETRIES):
    KernelInvokeOperator(
        task_id="deferred",
        **APP,
        payload={"lines": 1},
        defer_after=0,
        outlets=[Asset(name="talk_deferred", uri="x-kernel://talk/deferred")],
    )
    KernelInvokeOperator(
        task_id="in_one_call",
        **APP,
        payload={"lines": 1},
        async_=False,
        outlets=[Asset(name="talk_in_one_call", uri="x-kernel://talk/in-one-call")],
    )
    KernelInvokeOperator(
        task_id="by_alias", **APP, payload={"lines": 1}, outlets=[ALIAS], post_execute=add_by_alias
    )

with DAG("decorated_names", schedule=None, default_args=RETRIES):
    KernelInvokeOperator.partial(
        task_id="invoke",
        **APP,
        map_index_template="{{ task.payload['name'] }}, {{ task.payload['lines'] }} lines",
    ).expand(payload=[{"lines": 20, "name": "first"}, "payloads/second.json"])
