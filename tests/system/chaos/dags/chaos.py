"""
The Dags of the chaos run: one task each, which waits in its own way.

A run's ``conf`` has the lists ``seconds`` and ``fails``, an item for each map index. The environment may break the
operator, to see that this is noticed: ``CHAOS_ARGUMENTS`` holds more arguments for it, as JSON.
"""

import json
import os
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

WITH_METADATA = {"metadata_field": "airflow", "on_lost_reply": "resubmit"}
MAPPED = 3


def payload(index: int) -> dict[str, str]:
    return {
        "name": "{{ dag.dag_id }}/{{ run_id }}/{{ ti.map_index }}",
        "seconds": f"{{{{ dag_run.conf['seconds'][{index}] }}}}",
        "fails": f"{{{{ dag_run.conf['fails'][{index}] }}}}",
    }


def chaos(dag_id: str, *, mapped: bool = False, **arguments: Any) -> None:
    arguments |= {"task_id": "work", "app_name": "chaos", "action_name": "work"}
    arguments |= {"retries": 3, "retry_delay": timedelta(seconds=2)}
    arguments |= json.loads(os.environ.get("CHAOS_ARGUMENTS", "{}"))
    with DAG(dag_id, schedule=None):
        if mapped:
            payloads = [payload(index) for index in range(MAPPED)]
            KernelInvokeOperator.partial(**arguments).expand(payload=payloads)
        else:
            KernelInvokeOperator(payload=payload(0), **arguments)


LIMIT = {"async_timeout_seconds": 180}
chaos("deferred", defer_after=0, **WITH_METADATA, **LIMIT)
chaos("deferred_mapped", mapped=True, defer_after=0, **WITH_METADATA, **LIMIT)
chaos("deferred_by_default", **LIMIT)
chaos("on_worker", deferrable=False, **WITH_METADATA, **LIMIT)
chaos("on_worker_mapped", mapped=True, deferrable=False, **WITH_METADATA, **LIMIT)
chaos("on_worker_by_default", deferrable=False, **LIMIT)
chaos("in_one_call", async_=False, **WITH_METADATA)
