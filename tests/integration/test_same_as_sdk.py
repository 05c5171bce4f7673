"""What our hooks send equals, field for field, what the official SDK sends for the same call."""

from __future__ import annotations

import json

import kernel
import pytest

from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook
from tests.integration.conftest import TOKEN
from tests.integration.scripted import Reply, Stream, invocation, state

pytestmark = pytest.mark.one_airflow

PAYLOAD = {"sku": "čaj", "n": [1, 2.5, None]}
SHOP = {"app_name": "shop", "action_name": "price"}


@pytest.fixture(autouse=True)
def kernel_as_scripted(server, connect):
    connect(host=server.url, password=TOKEN, extra={"project": "p1"})
    server.on("POST /invocations", Reply(202, {"id": "inv1", "action_name": "price", "status": "queued"}))
    server.on("GET /invocations", Reply(200, [invocation("running").body], {"X-Has-More": "false"}))
    server.on("GET /invocations/inv1", invocation("running"))
    server.on("GET /invocations/inv1/events", Stream(state("succeeded")))
    server.on("PATCH /invocations/inv1", invocation("failed"))
    server.on("DELETE /invocations/inv1/browsers", Reply(204))
    server.on("GET /apps", Reply(200, []))
    server.on("GET /auth/context", Reply(200, {}))
    server.on("GET /org/entitlements", Reply(200, {}))


def fields(request):
    """All of a request but what names the client itself."""
    own = (
        "user-agent",
        "x-stainless",
        "host",
        "connection",
        "accept-encoding",
        "content-length",
        "idempotency",
    )
    headers = {name.lower(): value for name, value in request.headers.items()}
    return {
        "method": request.method,
        "path": request.path,
        "headers": {name: value for name, value in headers.items() if not name.startswith(own)},
        "body": request.json if request.body else None,
    }


CALLS = {
    "invoke": (
        lambda sdk: sdk.invocations.create(
            **SHOP,
            version="latest",
            async_=True,
            payload=json.dumps(PAYLOAD, ensure_ascii=False, separators=(",", ":")),
        ),
        lambda hook: hook.invoke(**SHOP, payload=PAYLOAD),
    ),
    "invoke, every field": (
        lambda sdk: sdk.invocations.create(
            **SHOP, version="1.2.0", async_=True, async_timeout_seconds=60, payload='{"a": 1}'
        ),
        lambda hook: hook.invoke(
            **SHOP, version="1.2.0", async_=True, async_timeout_seconds=60, payload='{"a": 1}'
        ),
    ),
    "invoke, synchronous, no payload": (
        lambda sdk: sdk.invocations.create(**SHOP, version="latest", async_=False),
        lambda hook: hook.invoke(**SHOP, async_=False),
    ),
    "get": (lambda sdk: sdk.invocations.retrieve("inv1"), lambda hook: hook.get_invocation("inv1")),
    "list": (
        lambda sdk: list(sdk.invocations.list(**SHOP, status="running", since="5m", version="1", limit=100)),
        lambda hook: list(hook.list_invocations(**SHOP, status="running", since="5m", version="1")),
    ),
    "follow": (
        lambda sdk: list(sdk.invocations.follow("inv1", since="5m")),
        lambda hook: list(hook.follow_invocation("inv1", since="5m")),
    ),
    "cancel": (
        lambda sdk: (
            sdk.invocations.retrieve("inv1"),
            sdk.invocations.update("inv1", status="failed", output='{"cancelled": "why"}'),
            sdk.invocations.delete_browsers("inv1"),
        ),
        lambda hook: hook.cancel_invocation("inv1", "why"),
    ),
    "apps": (
        lambda sdk: list(sdk.apps.list(app_name="shop", limit=100)),
        lambda hook: hook.get_app_versions("shop"),
    ),
    "test": (
        lambda sdk: (sdk.auth.context.retrieve(), sdk.organization.entitlements.retrieve()),
        lambda hook: hook.test_connection(),
    ),
}


def canonical(request):
    sent = fields(request)
    path, _, query = sent["path"].partition("?")
    if sent["method"] == "DELETE":
        # It has no body, and its reply has none, so of what kind they are does not matter.
        sent["headers"] = {k: v for k, v in sent["headers"].items() if k not in ("accept", "content-type")}
    return {**sent, "path": path, "query": sorted(query.split("&"))}


@pytest.fixture
def sent_by_sdk(server):
    """Have the SDK make a call; return its requests, and forget them."""

    def sent_by_sdk(call):
        with kernel.Kernel(api_key=TOKEN, base_url=server.url, project="p1", max_retries=0) as sdk:
            CALLS[call][0](sdk)
        sent = list(map(canonical, server.requests))
        assert sent
        server.requests.clear()
        return sent

    return sent_by_sdk


@pytest.mark.parametrize("call", CALLS)
def test_synchronous_hook_sends_the_same_request_as_the_sdk(server, sent_by_sdk, call):
    expected = sent_by_sdk(call)
    with KernelHook() as hook:
        CALLS[call][1](hook)
    assert list(map(canonical, server.requests)) == expected


@pytest.mark.parametrize("call", ["get", "cancel", "follow"])
async def test_asynchronous_hook_sends_the_same_request_as_the_sdk(server, sent_by_sdk, call):
    expected = sent_by_sdk(call)
    async with KernelAsyncHook() as hook:
        if call == "follow":
            assert [event async for event in hook.follow_invocation("inv1", since="5m")]
        else:
            await CALLS[call][1](hook)
    assert list(map(canonical, server.requests)) == expected
