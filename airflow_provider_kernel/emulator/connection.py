"""How Airflow finds an emulator. Needs no package of the extra ``emulator``. Pure; no I/O."""

from __future__ import annotations

import json


def airflow_connection(base_url: str, api_key: str) -> str:
    """
    Return an Airflow connection, as the value of a variable such as ``AIRFLOW_CONN_KERNEL_DEFAULT``.

    A task's link leads to its invocation on the emulator's page.

    :param base_url: the emulator's URL, without a slash at its end.
    :param api_key: the API key.
    """
    extra = {"dashboard_url": f"{base_url}/#/invocations/{{invocation_id}}"}
    return json.dumps({"conn_type": "kernel", "host": base_url, "password": api_key, "extra": extra})
