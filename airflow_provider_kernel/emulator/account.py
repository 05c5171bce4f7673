"""
What the account may do: its limits, and what is refused on request. Pure; no I/O.

Which code Kernel gives where a spending cap is reached, or where a key is of another project, is unknown: here it is
one that says nothing, so that the words must.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_kernel.emulator.contract import ApiError

#: What may be refused on request, as Kernel does: the methods, whether only where a project is named, the reply.
REFUSALS = {
    "spending-cap": ("POST", False, ApiError(403, "forbidden", "Monthly spending cap reached")),
    "insufficient-scope": (
        "POST PATCH DELETE",
        False,
        ApiError(403, "insufficient_scope", "The API key may only read"),
    ),
    "other-project": ("", True, ApiError(403, "forbidden", "The API key belongs to another project")),
    "unknown-project": ("", True, ApiError(404, "project_not_found", "Project not found or inactive")),
}


def refusal(name: str | None, method: str, headers: Mapping[str, str]) -> ApiError | None:
    """
    Return how a request is refused; None if it is not.

    :param name: what the emulator was told to refuse, of :data:`REFUSALS`; None for nothing.
    :param method: the request's method.
    :param headers: its headers.
    """
    if name is None:
        return None
    methods, of_project, error = REFUSALS[name]
    applies = "x-kernel-project" in headers if of_project else method in methods.split()
    return error if applies else None


def limits(max_concurrency: int | None) -> dict[str, Any]:
    """
    Return the body of ``GET /org/entitlements``: an organization that has apps, and nothing else.

    :param max_concurrency: invocations that may be active; None for any number, which Kernel has no word for.
    """
    managed_auth = {f"health_check_interval_{name}_seconds": 3600 for name in ("default", "max", "min")}
    more = {
        "browser_extensions": {"max_stored_per_org": 0},
        "browser_replays": {"retention_days": 0},
        "managed_auth": {**managed_auth, "max_connections": 0},
    }
    names = (
        "browser_extensions browser_pools browser_replays credential_providers credentials custom_proxies file_io "
        "gpu managed_auth managed_proxies profiles proxy_bypass_hosts search vaults"
    )
    number = max_concurrency or 1_000_000
    return {
        "features": {name: {"enabled": False, **more.get(name, {})} for name in names.split()},
        "limits": {
            "default_max_concurrent_invocations_per_app": number,
            "max_concurrent_browsers": 0,
            "max_concurrent_invocations": number,
            "max_vaults": 0,
        },
        "plan": {
            "id": "ENTERPRISE",
            "effective_id": "ENTERPRISE",
            "is_trialing": False,
            "status": "ACTIVE",
            "trial_ends_at": None,
        },
    }
