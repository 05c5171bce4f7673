"""Advice about a connection that Airflow does not find. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from airflow_provider_kernel.api.errors import API_KEYS_URL, KernelConfigurationError
from airflow_provider_kernel.api.settings import looks_like_token, shown

#: The fields of a connection in JSON, as Airflow reads them.
FIELDS = ("conn_type", "description", "host", "login", "password", "schema", "port", "extra")
_SHELL_NAME = re.compile(r"\w+", re.ASCII)


def how_to_make(conn_id: str, *, or_key: bool) -> str:
    """
    Return a sentence that says what is missing, and one that says how to make it.

    :param conn_id: the id of the connection.
    :param or_key: whether ``KERNEL_API_KEY`` may replace the connection.
    """
    key = ", and the environment has no KERNEL_API_KEY" if or_key else ""
    how = "Make one of type 'kernel' in Airflow's UI (Admin, Connections) or with `airflow connections add`"
    if _SHELL_NAME.fullmatch(conn_id) and not looks_like_token(conn_id):
        how += f", or set {_variable(conn_id)}{' or KERNEL_API_KEY' if or_key else ''}."
    else:
        how += "; to set it in the environment, choose an id of letters, digits and _."
    return f"There is no Airflow connection {shown(conn_id, 200)}{key}. {how} API keys are made at {API_KEYS_URL}."


def check_variable(conn_id: str, environ: Mapping[str, str]) -> None:
    """
    Check that the connection is not missing because Airflow cannot read its environment variable.

    :param conn_id: the id of a connection that Airflow does not find.
    :param environ: the environment.
    :raises KernelConfigurationError: the variable is set.
    """
    if text := environ.get(_variable(conn_id), "").strip():
        raise KernelConfigurationError(
            f"The environment variable {_variable('…' if looks_like_token(conn_id) else conn_id)} is set, but Airflow cannot read it. {_why(text)} "
            'Write for instance {"conn_type": "kernel", "password": "sk_…", "extra": {"project": "reports"}}.'
        )


def _why(text: str) -> str:
    if not text.startswith("{"):
        return "In a URI, the token and all else must be percent-encoded; JSON needs no encoding."
    try:
        unknown = [name for name in json.loads(text) if name not in FIELDS]
    except ValueError:
        return "It is not valid JSON."
    if unknown:
        return f"It has no field {shown(unknown[0])}: what is not {', '.join(FIELDS)} belongs in the extra."
    return "Its port must be a number, and its extra a JSON object."


def _variable(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"
