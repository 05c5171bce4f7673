"""What Kernel's API has and the emulator does not serve. Pure; no I/O."""

from __future__ import annotations

import re

#: The first part of a path, or the one after ``/org/``, and what Kernel has there.
_RESOURCES = {
    "agents": "managed auth",
    "api_keys": "API keys",
    "audit-logs": "audit logs",
    "auth": "managed auth",
    "browser_pools": "browser pools",
    "config-registry": "the config registry",
    "credential_providers": "credential providers",
    "credentials": "credentials",
    "deploy": "changes and logs of deployments: it serves the files of its command line",
    "deployments": "changes and logs of deployments: it serves the files of its command line",
    "extensions": "extensions",
    "org": "the organization, but for reading /org/entitlements and /org/limits",
    "profiles": "profiles: name one in browsers.create, which creates it",
    "projects": "projects",
    "proxies": "proxies",
    "search": "search",
    "telemetry": "telemetry",
    "vault-provider-configs": "vaults",
    "vaults": "vaults",
}
#: The part of a path after ``/browsers/{id}/``.
_OF_BROWSERS = {
    "curl": "requests through a browser",
    "extensions": "extensions",
    "logs": "the logs of a browser's machine",
    "process": "processes on a browser's machine",
    "repl": "the REPL of a browser",
    "telemetry": "telemetry",
    "webmcp": "WebMCP",
    "fs": "this call of a browser's file system",
    "playwright": "executors of Playwright scripts",
}
#: Methods of Kernel's that the emulator does not serve, of paths that it serves otherwise.
_METHODS = {"POST": r"/deployments", "DELETE": r"/deployments/[^/]+", "PATCH": r"/org/limits"}


def is_method_of_kernel(method: str, path: str) -> bool:
    """Return whether Kernel has a method at a path of which the emulator serves other methods alone."""
    return method in _METHODS and re.fullmatch(_METHODS[method], path) is not None


def unserved(path: str) -> str | None:
    """Return what Kernel has at a path that the emulator has no endpoint for; None if Kernel has nothing there."""
    first, *rest = path.strip("/").split("/")
    if first == "browsers" and len(rest) > 1:
        return _OF_BROWSERS.get(rest[1])
    if first == "org" and rest and rest[0] in _RESOURCES:
        first = rest[0]
    return _RESOURCES.get(first)
