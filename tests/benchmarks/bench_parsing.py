"""
What the import of an operator adds to every parse of a Dag file: this provider's beside its peers'. Run by hand::

    python -m tests.benchmarks.bench_parsing [rounds, default 7]

Each import is measured in a fresh interpreter that has loaded what the Dag processor and a Dag file with a ``@task`` load
anyway. The time is CPU time, the median over all rounds; the variants take turns.

Goal: operator, sensor and decorator together add at most 0.15 x what Airbyte's operator adds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import median

from tests.benchmarks import peers

GOAL = 0.15
OURS = "airflow_provider_kernel"
OPERATOR, SENSOR, DECORATOR = (f"{OURS}.{folder}.kernel" for folder in ("operators", "sensors", "decorators"))
AIRBYTE = "airbyte: operator"
ALL_OF_OURS = "kernel: operator, sensor, decorator"
VARIANTS = {
    AIRBYTE: ["airflow.providers.airbyte.operators.airbyte"],
    "dbt Cloud: operator": ["airflow.providers.dbt.cloud.operators.dbt"],
    "databricks: operator": ["airflow.providers.databricks.operators.databricks"],
    ALL_OF_OURS: [OPERATOR, SENSOR, DECORATOR],
    "kernel: operator": [OPERATOR],
    "kernel: sensor": [SENSOR],
    "kernel: decorator": [DECORATOR],
}
MEASURE = """
import gc, importlib, json, sys, time
import airflow.dag_processing.processor, airflow.providers.common.compat.sdk
from airflow.sdk import DAG, task
gc.disable()  # a collection looks at all of Airflow's objects, and would fall upon one or another
before, began = set(sys.modules), time.process_time()
for name in sys.argv[1:]:
    importlib.import_module(name)
seconds = time.process_time() - began
print("\\n" + json.dumps([seconds * 1000, sorted(set(sys.modules) - before)]))
"""
#: What a Dag file should not load.
HEAVY = ("requests", "aiohttp", f"{OURS}.operators.runner", f"{OURS}.triggers.kernel")


def measure(modules: list[str]) -> tuple[float, list[str]]:
    """Return the milliseconds of CPU time that these imports add, and the modules that they load."""
    done = subprocess.run(
        [peers.interpreter(), "-c", MEASURE, *modules],
        env=peers.environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    milliseconds, loaded = json.loads(done.stdout.splitlines()[-1])
    return milliseconds, loaded


def main() -> int:
    """Print the table; return the exit status: whether the goal is reached."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(peers.versions())
    for modules in VARIANTS.values():
        measure(modules)  # writes the bytecode
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    loaded: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, modules in VARIANTS.items():
            milliseconds, loaded[name] = measure(modules)
            times[name].append(milliseconds)
    unit = median(times[AIRBYTE])
    print(f"{'':36}     CPU  x airbyte  modules  of these")
    for name, found in times.items():
        heavy = ", ".join(sorted(set(HEAVY) & set(loaded[name]))) or "-"
        ratio = median(found) / unit
        print(f"{name:36} {median(found):4.0f} ms  {ratio:9.2f}  {len(loaded[name]):7}  {heavy}")
    ratio = median(times[ALL_OF_OURS]) / unit
    print(
        f"goal: {ALL_OF_OURS} <= {GOAL} x airbyte: {'reached' if ratio <= GOAL else 'MISSED'} ({ratio:.3f})"
    )
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
