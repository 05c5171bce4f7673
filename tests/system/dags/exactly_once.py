"""
The Dags whose tasks are killed, frozen, cleared and marked; ``conf`` says at which step.

Each run's invocations know the run, and last until there is a file ``end`` in the run's folder.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from tests.system.stepped import SteppedInvokeOperator

PAYLOAD = {"run": "{{ run_id }}", "end": "{{ dag_run.conf['folder'] }}/end"}
#: How many twins a mapped task has, all with the same payload.
TWINS = 3


def once(dag_id: str, *, mapped: bool = False, **changes: Any) -> None:
    """Make a Dag whose one task, ``invoke``, is to run its action exactly once."""
    arguments = {
        "task_id": "invoke",
        "app_name": "system-tests",
        "action_name": "until_told",
        "kernel_conn_id": "{{ dag_run.conf['conn_id'] }}",
        "on_lost_reply": "resubmit",
        "retries": 9,
        "retry_delay": timedelta(0),
        "defer_after": 0,
        **changes,
    }
    with DAG(dag_id, schedule=None):
        if mapped:
            SteppedInvokeOperator.partial(**arguments).expand(payload=[PAYLOAD] * TWINS)
        else:
            SteppedInvokeOperator(payload=PAYLOAD, **arguments)


for name, deferrable in (("deferred", True), ("on_worker", False)):
    once(f"once_{name}", deferrable=deferrable)
    once(f"once_mapped_{name}", deferrable=deferrable, mapped=True)
    once(f"once_last_try_{name}", deferrable=deferrable, retries=0)
    once(f"once_by_default_{name}", deferrable=deferrable, on_lost_reply="fail")
