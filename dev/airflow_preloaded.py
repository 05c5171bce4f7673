"""
``python -m dev.airflow_preloaded``: Airflow's command line in a process that has imported what its forks need.

Scheduler, Dag processor and triggerer fork a process for each task and each Dag file. Each would import the same modules anew.
"""

from importlib import import_module

from airflow.__main__ import main

#: What tasks, triggers and Dag files import.
MODULES = (
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.standard.decorators.python",
    "airflow.providers.standard.operators.empty",
    "airflow_provider_kernel.decorators.kernel",
    "airflow_provider_kernel.hooks.kernel",
    "airflow_provider_kernel.hooks.kernel_async",
    "airflow_provider_kernel.operators.kernel",
    "airflow_provider_kernel.operators.runner",
    "airflow_provider_kernel.sensors.kernel",
    "airflow_provider_kernel.sensors.runner",
    "airflow_provider_kernel.triggers.capacity",
    "airflow_provider_kernel.triggers.finished",
    "airflow_provider_kernel.triggers.kernel",
)

if __name__ == "__main__":
    for module in MODULES:
        import_module(module)
    main()
