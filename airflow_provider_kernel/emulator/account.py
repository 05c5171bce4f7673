"""
The account: its limits, and the errors of ``--refuse``. Pure; no I/O.

Kernel's error codes for a reached spending cap and for a key of another project are unknown. The emulator answers
with the generic code ``forbidden``, so that clients must read the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_kernel.emulator.contract import ApiError

#: The choices of ``--refuse``: the refused methods, whether only requests that name a project are refused, the error.
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

#: Maximum number of open browsers: Kernel documents no value for "no limit".
_MAX_BROWSERS = 1_000_000
#: Seconds between the health checks of managed auth, which the emulator does not serve.
_HEALTH_CHECK_SECONDS = 3600
_SERVED = ("browser_replays", "file_io", "profiles")


def refusal(name: str | None, method: str, headers: Mapping[str, str]) -> ApiError | None:
    """
    Return the error with which ``--refuse`` answers a request; None if the request is not refused.

    :param name: the choice of :data:`REFUSALS`; None: no request is refused.
    :param method: the request's method.
    :param headers: the request's headers.
    """
    if name is None:
        return None
    methods, needs_project, error = REFUSALS[name]
    is_refused = "x-kernel-project" in headers if needs_project else method in methods.split()
    return error if is_refused else None


def entitlements(max_concurrency: int | None) -> dict[str, Any]:
    """
    Return the body of ``GET /org/entitlements``: the organization has what the emulator serves.

    :param max_concurrency: maximum number of active invocations; None: no limit, reported as 1,000,000 because Kernel
        documents no value for "no limit".
    """
    managed_auth = {
        f"health_check_interval_{name}_seconds": _HEALTH_CHECK_SECONDS for name in ("default", "max", "min")
    }
    details = {
        "browser_extensions": {"max_stored_per_org": 0},
        "browser_replays": {"retention_days": 1},
        "managed_auth": {**managed_auth, "max_connections": 0},
    }
    features = (
        "browser_extensions browser_pools browser_replays credential_providers credentials custom_proxies file_io "
        "gpu managed_auth managed_proxies profiles proxy_bypass_hosts search vaults"
    )
    limit = max_concurrency or 1_000_000
    return {
        "features": {
            name: {"enabled": name in _SERVED, **details.get(name, {})} for name in features.split()
        },
        "limits": {
            "default_max_concurrent_invocations_per_app": limit,
            "max_concurrent_browsers": _MAX_BROWSERS,
            "max_concurrent_invocations": limit,
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


def limits(open_browsers: int) -> dict[str, Any]:
    """
    Return the body of ``GET /org/limits``, which are those of :func:`entitlements` and their use. It has no invocations.

    :param open_browsers: number of open browsers.
    """
    return {
        "auth_connections_used": 0,
        "concurrent_sessions_available": _MAX_BROWSERS - open_browsers,
        "concurrent_sessions_used": open_browsers,
        "default_project_max_concurrent_sessions": None,
        "max_auth_connections": 0,
        "max_concurrent_sessions": _MAX_BROWSERS,
        "max_vaults": 0,
        "min_health_check_interval_seconds": _HEALTH_CHECK_SECONDS,
        "vaults_used": 0,
    }
