"""The invocations of an emulator, as its API lists them."""

from __future__ import annotations

from typing import Any

import requests

from airflow_provider_kernel.testing import KernelEmulator


def invocations_of(emulator: KernelEmulator, **filters: str) -> list[dict[str, Any]]:
    """Return all invocations that match the filters, such as ``since``, newest first."""
    found: list[dict[str, Any]] = []
    while True:
        reply = requests.get(
            f"{emulator.base_url}/invocations",
            params={**filters, "limit": "100", "offset": str(len(found))},
            headers={"Authorization": f"Bearer {emulator.api_key}"},
            timeout=30,
        )
        reply.raise_for_status()
        found += reply.json()
        if reply.headers["X-Has-More"] == "false":
            return found
