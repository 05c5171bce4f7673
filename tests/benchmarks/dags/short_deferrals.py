"""Invocations of a given length, each in a task without retries."""

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG("short_deferrals", schedule=None):

    @task
    def payloads(seconds, tasks):
        """Say how long each lasts."""
        return [{"seconds": float(seconds)}] * int(tasks)

    KernelInvokeOperator.partial(
        task_id="invoke", app_name="tests", action_name="sleep", defer_after=0
    ).expand(payload=payloads("{{ dag_run.conf['seconds'] }}", "{{ dag_run.conf['tasks'] }}"))
