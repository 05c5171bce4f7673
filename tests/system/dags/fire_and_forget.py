"""An invocation that is started by one task and waited for by another, in each of the ways to wait."""

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor

with DAG("once_fire_and_forget", schedule=None, render_template_as_native_obj=True):
    start = KernelInvokeOperator(
        task_id="start",
        app_name="system-tests",
        action_name="talk",
        payload={"lines": "{{ dag_run.conf['lines'] }}"},
        kernel_conn_id="kernel_dashboard",
        wait_for_completion=False,
    )
    for task_id, how in {
        "deferred": {},
        "poking": {"deferrable": False, "poke_interval": 1},
        # Airflow fails some tasks that begin again within five seconds; see "What happens if …".
        "rescheduled": {"deferrable": False, "mode": "reschedule", "poke_interval": 10},
    }.items():
        KernelInvocationSensor(
            task_id=task_id, invocation_id=start.output, kernel_conn_id="kernel_dashboard", timeout=120, **how
        )
