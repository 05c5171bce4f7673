"""What an emulator was asked to run, as its API lists it."""

from __future__ import annotations

from typing import Any

import requests

from airflow_provider_kernel.testing import KernelEmulator


def invocations_of(emulator: KernelEmulator, **filters: str) -> list[dict[str, Any]]:
    """Return all invocations that the filters take, such as ``since``; the newest first."""
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
