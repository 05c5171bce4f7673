"""Both hooks over real HTTP, against a server that misbehaves by a script."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from airflow_provider_kernel.api.endpoints import follow_events
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelConfigurationError,
    KernelLostReplyError,
    KernelTransportError,
)
from airflow_provider_kernel.hooks import connection, kernel_async
from airflow_provider_kernel.hooks.kernel import KernelHook
from airflow_provider_kernel.hooks.kernel_async import KernelAsyncHook
from airflow_provider_kernel.transport import errors
from airflow_provider_kernel.transport.limits import Limits
from tests.integration.conftest import TOKEN
from tests.integration.scripted import Reply, Stream, error, html, invocation, serving, state

GET = "GET /invocations/inv1"
POST = "POST /invocations"
PATCH = "PATCH /invocations/inv1"
DELETE = "DELETE /invocations/inv1/browsers"


pytestmark = pytest.mark.usefixtures("no_backoff", "server")


@pytest.fixture
def hook(server):
    with KernelHook() as hook:
        yield hook


@pytest.mark.parametrize(
    "trouble",
    [*map(error, (500, 503, 529, 429, 408)), html(502), html(200), Reply(drop=True)],
    ids=str,
)
def test_get_is_retried_after_a_transient_error(server, ask, trouble):
    server.on(GET, trouble, trouble, invocation("running"))
    assert ask("get_invocation", "inv1").status == "running"
    assert len(server.seen(GET)) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_get_raises_kernels_message_without_a_retry_after_a_refusal(server, ask, status):
    server.on(GET, error(status, "a_code", X_Request_Id="req_7"))
    with pytest.raises(
        KernelApiError, match=rf"answered {status} a_code \(request req_7\): Kernel's sentence\."
    ) as e:
        ask("get_invocation", "inv1")
    assert (e.value.status_code, e.value.code, e.value.request_id) == (status, "a_code", "req_7")
    assert len(server.seen(GET)) == 1


def test_get_raises_after_the_last_attempt(server, ask):
    server.on(GET, html(503))
    with pytest.raises(KernelApiError, match="answered 503: the body is text/html and not Kernel's"):
        ask("get_invocation", "inv1")
    assert len(server.seen(GET)) == errors.MAX_ATTEMPTS


def test_get_waits_for_retry_after(server, ask, mocker):
    sleep = mocker.patch("time.sleep"), mocker.patch("asyncio.sleep")
    server.on(GET, error(429, Retry_After="7"), invocation("running"))
    ask("get_invocation", "inv1")
    waited = [call.args[0] for patched in sleep for call in patched.call_args_list if call.args[0] > 1]
    # Threads that other tests have left sleep, too.
    assert waited.count(7.0) == 1


def test_get_raises_at_once_when_retry_after_is_too_long(server, ask):
    server.on(GET, error(429, Retry_After="3000"))
    with pytest.raises(KernelApiError) as refused:
        ask("get_invocation", "inv1")
    assert refused.value.retry_after == 3000
    assert len(server.seen(GET)) == 1


@pytest.mark.parametrize(
    "trouble",
    [*map(error, (500, 502, 503, 504)), html(502), html(200), Reply(drop=True), Reply(200, {"id": 7})],
    ids=str,
)
def test_invoke_is_not_retried_when_kernel_may_have_accepted_it(server, hook, trouble):
    server.on(POST, trouble)
    with pytest.raises(
        KernelLostReplyError, match="of shop/price was lost, so the invocation may be running"
    ):
        hook.invoke("shop", "price", {"sku": 1})
    assert len(server.seen(POST)) == 1


@pytest.mark.parametrize("status", [429, 529])
def test_invoke_is_retried_when_kernel_did_not_accept_it(server, hook, status):
    server.on(
        POST,
        error(status),
        error(status),
        Reply(202, {"id": "inv1", "action_name": "price", "status": "queued"}),
    )
    assert hook.invoke("shop", "price").id == "inv1"
    assert len(server.seen(POST)) == 3


def test_invoke_raises_a_lost_reply_error_after_the_timeout(server, connect):
    connect(host=server.url, password=TOKEN, extra={"timeout": 0.2})
    server.on(POST, lambda request: (server.over.wait(5) and Reply()) or Reply())
    with KernelHook() as hook, pytest.raises(KernelLostReplyError, match="did not reply in time"):
        hook.invoke("shop", "price")
    assert len(server.seen(POST)) == 1


def test_synchronous_invoke_waits_longer_than_kernels_limit(server, hook, mocker):
    server.on(POST, Reply(200, {"id": "inv1", "action_name": "price", "status": "succeeded", "output": "1"}))
    request = mocker.spy(hook.get_conn(), "request")
    assert hook.invoke("shop", "price", async_=False).output == 1
    assert request.call_args.kwargs["timeout"][1] > 100


def test_error_names_address_and_reason_when_nothing_listens(ask, connect):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    connect(host=url, password=TOKEN)
    with pytest.raises(
        KernelTransportError, match=rf"{url} could not be reached \(Connection refused\)"
    ) as lost:
        ask("get_invocation", "inv1")
    assert not lost.value.sent


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_does_not_receive_the_token(server, ask, status):
    with serving() as other:
        server.on(GET, Reply(status, b"", {"Location": f"{other.url}/invocations/inv1?q=secret"}))
        other.on(GET, invocation("succeeded"))
        with pytest.raises(
            KernelApiError, match=f"a redirect to {other.url.removeprefix('http://')}, which is not"
        ):
            ask("get_invocation", "inv1")
        assert other.requests == []


@pytest.mark.parametrize("location", ["http://[", "https://a:b/", "//\udcff"])
def test_malformed_redirect_raises_an_api_error(server, ask, location):
    server.on(GET, Reply(302, b"", {"Location": location.encode(errors="surrogateescape").decode("latin-1")}))
    with pytest.raises(KernelApiError, match="answered 302: a redirect to"):
        ask("get_invocation", "inv1")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://[", "http://proxy:99999"])
def test_unusable_proxy_of_the_environment_raises_before_sending(ask, connect, monkeypatch, proxy):
    connect(host="https://kernel.invalid", password=TOKEN)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(KernelConfigurationError, match="HTTPS_PROXY"):
        ask("get_invocation", "inv1")


def test_silent_reply_over_tls_ends_at_the_timeout(tls, connect, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.ca)
    with serving(tls.server()) as server, KernelHook() as hook:
        connect(host=server.url, password=TOKEN)
        server.on("GET /invocations/inv1/events", Stream(state("running"), end="silent"))
        call = follow_events("inv1")
        with (
            pytest.raises(KernelTransportError, match="did not reply in time"),
            hook._exchange(call, hook.settings, Limits(9, 0.3, None), stream=True) as response,
        ):
            assert response.content


def test_netrc_file_does_not_replace_the_token(server, ask, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.on(GET, invocation("running"))
    ask("get_invocation", "inv1")
    assert server.seen(GET)[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_request_has_the_user_agent(server, ask):
    server.on(GET, invocation("running"))
    ask("get_invocation", "inv1")
    assert server.seen(GET)[0].headers["User-Agent"].startswith("airflow-provider-kernel/")


@pytest.mark.parametrize("found", ["running", "queued", "paused"])
def test_cancel_ends_an_active_invocation_and_closes_its_browsers(server, ask, found):
    server.on(GET, invocation(found))
    server.on(PATCH, invocation("failed"))
    server.on(DELETE, Reply(204))
    assert ask("cancel_invocation", "inv1", "why").cancelled
    assert [r.method for r in server.requests] == ["GET", "PATCH", "DELETE"]
    assert server.seen(PATCH)[0].json == {"status": "failed", "output": '{"cancelled": "why"}'}


def test_list_reads_all_pages(server, hook):
    def page(request):
        offset = int(request.path.partition("offset=")[2] or 0)
        items = [{**invocation("running").body, "id": f"inv{offset + i}"} for i in range(2)]
        more = offset < 4
        headers = {"X-Has-More": str(more).lower(), "X-Next-Offset": str(offset + 2 if more else 0)}
        return Reply(200, items, headers)

    server.on("GET /invocations", page)
    found = hook.list_invocations(app_name="shop", status="running", limit=2)
    assert [i.id for i in found] == [f"inv{i}" for i in range(6)]
    assert server.requests[0].path == "/invocations?app_name=shop&status=running&limit=2"


@pytest.mark.parametrize("fields", [{}, {"password": TOKEN, "host": "http://kernel.example.com"}])
def test_invoke_raises_no_lost_reply_error_when_the_connection_cannot_be_used(connect, fields):
    connect(**fields)
    with KernelHook() as hook, pytest.raises(KernelConfigurationError):
        hook.invoke("shop", "price")


@pytest.fixture
def nowhere(monkeypatch):
    """There is no connection in any backend; Airflow 2 would look into its database, which there is none of here."""
    monkeypatch.setattr(connection, "_secrets_backends", list)


@pytest.mark.usefixtures("nowhere")
def test_environment_is_used_when_the_default_connection_does_not_exist(server, ask, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_KERNEL_DEFAULT")
    monkeypatch.setenv("KERNEL_API_KEY", TOKEN)
    monkeypatch.setenv("KERNEL_BASE_URL", server.url)
    server.on(GET, invocation("running"))
    ask("get_invocation", "inv1")
    assert server.seen(GET)[0].headers["Authorization"] == f"Bearer {TOKEN}"


@pytest.mark.usefixtures("nowhere")
def test_environment_is_not_used_in_place_of_a_named_connection(monkeypatch):
    monkeypatch.setenv("KERNEL_API_KEY", TOKEN)
    with pytest.raises(
        KernelConfigurationError,
        match=r"no Airflow connection 'reports'.*type 'kernel'.*AIRFLOW_CONN_REPORTS",
    ):
        _ = KernelHook("reports").settings


def test_repr_and_log_do_not_contain_the_token(server, hook, caplog):
    caplog.set_level(logging.DEBUG)
    server.on(GET, error(503), error(401))
    with pytest.raises(KernelApiError) as refused:
        hook.get_invocation("inv1")
    shown = [repr(hook), repr(vars(hook)), repr(hook.settings), repr(refused.value), str(refused.value)]
    assert TOKEN not in "".join(shown) + caplog.text
    assert server.seen(GET)[0].headers["Authorization"].endswith(TOKEN)


@pytest.mark.parametrize("status", [401, 403])
def test_synchronous_hook_reads_the_connection_again_after_a_refused_token(
    server, hook, mocker, connect, status
):
    server.on(GET, error(status), invocation("running"))
    with pytest.raises(KernelApiError):
        hook.get_invocation("inv1")
    away = mocker.patch.object(hook, "get_connection", side_effect=OSError("sk_canary"))
    with pytest.raises(
        KernelTransportError, match=r"'kernel_default' could not be read \(OSError\)"
    ) as unread:
        hook.get_invocation("inv1")
    assert "canary" not in str(unread.value)
    mocker.stop(away)
    connect(host=server.url, password="sk_new_token")
    hook.get_invocation("inv1")
    tokens = [request.headers["Authorization"] for request in server.seen(GET)]
    assert tokens == [f"Bearer {TOKEN}", "Bearer sk_new_token"]


async def get():
    async with KernelAsyncHook() as hook:
        return await hook.get_invocation("inv1")


class TestAsynchronousHooks:
    """A thousand triggers in one event loop."""

    @pytest.fixture
    def reads(self, mocker):
        return mocker.spy(kernel_async, "get_async_connection")

    async def test_share_a_session_that_closes_with_the_last_hook(self, server):
        server.on(GET, invocation("running"))
        async with KernelAsyncHook() as first, KernelAsyncHook() as second:
            assert first._in_use().session is second._in_use().session
            await asyncio.gather(
                *(hook.get_invocation("inv1") for hook in (first, second) for _ in range(20))
            )
            session = first._in_use().session
            assert not session.closed
        assert session.closed
        assert not kernel_async._shared.here()

    async def test_share_one_read_of_the_connection(self, server, reads):
        server.on(GET, invocation("running"))
        await asyncio.gather(*(get() for _ in range(50)))
        assert reads.call_count == 1

    @pytest.mark.parametrize("status", [401, 403])
    async def test_read_the_connection_again_after_a_refused_token(self, server, reads, connect, status):
        server.on(GET, error(status), invocation("running"))
        async with KernelAsyncHook() as hook:
            with pytest.raises(KernelApiError):
                await hook.get_invocation("inv1")
            connect(host=server.url, password="sk_new_token")
            await hook.get_invocation("inv1")
        assert reads.call_count == 2
        assert server.seen(GET)[1].headers["Authorization"] == "Bearer sk_new_token"

    async def test_read_the_connection_again_after_a_minute(self, server, reads):
        server.on(GET, invocation("running"))
        async with KernelAsyncHook() as hook:
            await hook.get_invocation("inv1")
            hook._in_use().read_at -= kernel_async.SETTINGS_LIFE + 1
            await hook.get_invocation("inv1")
        assert reads.call_count == 2

    async def test_keep_the_settings_while_the_connection_cannot_be_read(self, server, mocker):
        server.on(GET, invocation("running"))
        async with KernelAsyncHook() as hook:
            await hook.get_invocation("inv1")
            hook._in_use().read_at -= kernel_async.SETTINGS_LIFE + 1
            mocker.patch.object(kernel_async, "get_async_connection", side_effect=OSError("sk_canary"))
            assert (await hook.get_invocation("inv1")).status == "running"

    async def test_raise_a_transport_error_when_the_connection_was_never_read(self, server, hook, mocker):
        server.on(GET, invocation("running"))
        connection = mocker.patch.object(
            kernel_async, "get_async_connection", side_effect=OSError("sk_canary")
        )
        async with KernelAsyncHook() as hook:
            with pytest.raises(KernelTransportError, match="'kernel_default' could not be read") as error:
                await hook.get_invocation("inv1")
            assert "canary" not in str(error.value)
        assert connection.call_count == errors.MAX_ATTEMPTS

    async def test_read_the_connection_after_another_reader_was_cancelled(self, server, mocker):
        server.on(GET, invocation("running"))
        started = asyncio.Event()
        real = kernel_async.get_async_connection

        async def slow(conn_id):
            if not started.is_set():
                started.set()
                await asyncio.Event().wait()
            return await real(conn_id)

        mocker.patch.object(kernel_async, "get_async_connection", slow)

        first = asyncio.create_task(get())
        await started.wait()
        second = asyncio.create_task(get())
        first.cancel()
        assert (await asyncio.wait_for(second, 10)).status == "running"
