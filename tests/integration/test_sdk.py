"""The official SDK, unmodified, against the emulator: its methods and its error classes."""

import json
from contextlib import suppress
from datetime import UTC, datetime

import kernel
import pytest

from airflow_provider_kernel.testing import KernelEmulator
from tests.integration.conftest import APP, client_of

pytestmark = pytest.mark.no_airflow

LATEST = {"app_name": "tests", "version": "latest"}


def test_synchronous_invocation_returns_the_output(client):
    reply = client.invocations.create(**LATEST, action_name="echo", payload='{"sku": "ü", "n": [1, null]}')

    assert (reply.status, reply.action_name, reply.status_reason) == ("succeeded", "echo", None)
    assert json.loads(reply.output) == {"sku": "ü", "n": [1, None]}


#: A payload with white space around and within the JSON, a long and a short escape, and numbers with several spellings.
SPACED = ' {"sku" : "\\u00fc\\/ü", "n": [1.0, 1e2,\n null], "big": 12345678901234567890 } \t \t\t\n'
PAYLOADS = [SPACED, "[1,2] \t", '"text"\t', " null", '{"a":1,"a":2}']


@pytest.fixture(scope="module", params=[False, True], ids=["stored", "reserialized"])
def reserialized(request):
    """Whether payloads are stored anew, and a client of an emulator that does so or does not."""
    with KernelEmulator([APP], reserialize_payloads=request.param) as emulator, client_of(emulator) as client:
        yield request.param, client


@pytest.mark.parametrize("payload", PAYLOADS)
def test_payload_is_stored_byte_for_byte_unless_reserialized(reserialized, payload):
    is_reserialized, client = reserialized
    expected = json.dumps(json.loads(payload), separators=(",", ":")) if is_reserialized else payload

    reply = client.invocations.create(**LATEST, action_name="echo", payload=payload, async_=True)
    events = [event for event in client.invocations.follow(reply.id) if event.event == "invocation_state"]
    listed = {one.id: one.payload for one in client.invocations.list(action_name="echo")}

    assert {event.invocation.payload for event in events} == {expected}
    assert listed[reply.id] == client.invocations.retrieve(reply.id).payload == expected
    assert json.loads(expected) == json.loads(payload)


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("is_async", [False, True])
def test_action_receives_the_same_value_whether_payload_is_reserialized(reserialized, payload, is_async):
    _, client = reserialized

    reply = client.invocations.create(**LATEST, action_name="echo", payload=payload, async_=is_async)
    if is_async:
        *_, last = client.invocations.follow(reply.id)
        reply = last.invocation

    assert reply.status == "succeeded"
    # The emulator writes outputs in one form, so the text proves that the values have the same types, too.
    assert reply.output == json.dumps(json.loads(payload), ensure_ascii=False)


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_update_returns_the_payload_as_stored(reserialized, status):
    is_reserialized, client = reserialized
    reply = client.invocations.create(
        **LATEST, action_name="sleep", payload=' {"seconds": 600} \t', async_=True
    )

    updated = client.invocations.update(reply.id, status=status)

    assert updated.payload == ('{"seconds":600}' if is_reserialized else ' {"seconds": 600} \t')


def test_payload_is_refused_when_it_cannot_be_reserialized(reserialized):
    is_reserialized, client = reserialized
    submission = {**LATEST, "action_name": "no_payload", "payload": "1e400"}

    if is_reserialized:
        with pytest.raises(kernel.BadRequestError, match="cannot be reserialized"):
            client.invocations.create(**submission)
    else:
        assert client.invocations.create(**submission)


def test_payload_is_missing_in_both_forms_when_none_is_given(reserialized):
    _, client = reserialized
    reply = client.invocations.create(**LATEST, action_name="no_payload")

    assert reply.status == "succeeded"
    assert client.invocations.retrieve(reply.id).payload is None


@pytest.mark.parametrize("payload", ['"text"', "0", "null", "[]", "false"])
@pytest.mark.parametrize("action", ["echo", "async_echo"])
def test_payload_and_output_can_be_any_json_value(client, action, payload):
    assert client.invocations.create(**LATEST, action_name=action, payload=payload).output == payload


def test_asynchronous_invocation_is_queued_and_then_ends(client, submit, until):
    reply = client.invocations.create(**LATEST, action_name="echo", payload="1", async_=True)

    assert (reply.status, reply.output, reply.status_reason) == ("queued", None, None)
    ended = until(lambda: (i := client.invocations.retrieve(reply.id)).status == "succeeded" and i)
    assert (ended.output, ended.payload, ended.app_name, ended.version) == ("1", "1", "tests", "emulator")
    assert ended.started_at <= ended.finished_at <= datetime.now(UTC)


def test_failed_invocation_has_a_reason_and_the_error_as_output(client):
    reply = client.invocations.create(**LATEST, action_name="fail", payload='{"message": "no stock"}')

    assert (reply.status, reply.output) == ("failed", "ValueError: no stock")
    assert reply.status_reason
    assert client.invocations.retrieve(reply.id).status_reason == reply.status_reason


def test_follow_yields_log_and_terminal_state_also_after_the_end(client, submit):
    invocation_id = submit("logs", {"n": 3})

    for _ in range(2):
        *events, last = client.invocations.follow(invocation_id)

        assert [event.message for event in events if event.event == "log"] == ["line 0", "line 1", "line 2"]
        assert last.event == "invocation_state"
        assert (last.invocation.status, last.invocation.output) == ("succeeded", "3")
    assert {event.event for event in events} == {
        "log"
    }  # A stream that is opened after the end has no earlier state.


def test_follow_begins_with_a_line_when_since_is_its_time(client, submit):
    invocation_id = submit("logs", {"n": 20, "delay": 0.001})
    lines = [event for event in client.invocations.follow(invocation_id) if event.event == "log"]

    since = lines[15].timestamp.isoformat().replace("+00:00", "Z")
    again = [
        event.message
        for event in client.invocations.follow(invocation_id, since=since)
        if event.event == "log"
    ]

    # The SDK's times have microseconds, so a line before may have the same time.
    assert again == [line.message for line in lines if line.timestamp >= lines[15].timestamp]
    assert len(again) < len(lines)


def test_failure_has_its_reason_in_retrieve_but_not_in_the_stream(client, submit):
    invocation_id = submit("fail", {"message": "no"})

    *_, last = client.invocations.follow(invocation_id)

    assert (last.invocation.status, last.invocation.status_reason) == ("failed", None)
    assert client.invocations.retrieve(invocation_id).status_reason


def test_list_iterates_over_pages_newest_first(client, submit):
    ids = [submit("no_payload", version="emulator") for _ in range(5)]

    since = client.invocations.retrieve(ids[0]).started_at.isoformat().replace("+00:00", "Z")
    listed = client.invocations.list(limit=2, app_name="tests", action_name="no_payload", since=since)

    assert len(listed.items) == 2
    assert [invocation.id for invocation in listed] == ids[::-1]


def test_update_to_failed_cancels_the_invocation(client, submit):
    invocation_id = submit("sleep", {"seconds": 600})

    cancelled = client.invocations.update(invocation_id, status="failed", output='{"by": "a test"}')

    assert (cancelled.status, cancelled.output) == ("failed", '{"by": "a test"}')
    assert cancelled.status_reason
    assert cancelled.finished_at


def test_update_to_succeeded_ends_the_invocation_without_a_reason(client, submit):
    updated = client.invocations.update(submit("sleep", {"seconds": 600}), status="succeeded")

    assert (updated.status, updated.output, updated.status_reason) == ("succeeded", None, None)


def test_browsers_of_an_invocation_can_be_listed_and_deleted(client, submit):
    invocation_id = submit("no_payload")

    assert client.invocations.list_browsers(invocation_id).browsers == []
    assert client.invocations.delete_browsers(invocation_id) is None


def test_apps_are_listed_with_their_actions(client):
    (app,) = client.apps.list(app_name="tests")

    assert (app.app_name, app.version, app.region, app.env_vars) == (
        "tests",
        "emulator",
        "aws.us-east-1a",
        {},
    )
    assert {"echo", "async_echo", "sleep"} <= {action.name for action in app.actions}
    assert list(client.apps.list(version="1.0.0")) == []


def test_auth_context_has_the_project_and_not_the_key(client, emulator):
    context = client.with_options(default_headers={"X-Kernel-Project": "shop"}).auth.context.retrieve()

    assert context.authorization.effective_scope.project_id == "shop"
    assert context.principal.type == "api_key"
    assert emulator.api_key not in context.to_json()


def test_action_reaches_the_emulator_through_the_sdk(client, emulator):
    output = client.invocations.create(**LATEST, action_name="env").output

    assert json.loads(output) == {**emulator.env(), "status": "running"}


async def test_asynchronous_client_works_for_every_method(emulator):
    async with kernel.AsyncKernel(base_url=emulator.base_url, api_key="any", max_retries=0) as client:
        invocations = client.invocations
        reply = await invocations.create(**LATEST, action_name="echo", payload="7")
        assert reply.output == "7"
        queued = await invocations.create(**LATEST, action_name="logs", payload='{"n": 2}', async_=True)
        assert queued.status == "queued"
        events = [event async for event in await invocations.follow(queued.id)]
        assert [event.message for event in events if event.event == "log"] == ["line 0", "line 1"]
        assert (await invocations.retrieve(queued.id)).status == "succeeded"
        listed = [invocation.id async for invocation in invocations.list(limit=1, action_name="logs")]
        assert listed[0] == queued.id
        assert len(listed) == len(set(listed))
        active = await invocations.create(
            **LATEST, action_name="sleep", payload='{"seconds": 600}', async_=True
        )
        assert (await invocations.update(active.id, status="failed")).status == "failed"
        with pytest.raises(kernel.NotFoundError):
            await invocations.retrieve("unknown")


def test_invalid_payload_raises_bad_request_error(client):
    with pytest.raises(kernel.BadRequestError) as caught:
        client.invocations.create(**LATEST, action_name="echo", payload="{not json")
    assert caught.value.body == {"code": "bad_request", "message": "payload is not JSON"}


@pytest.fixture(scope="module")
def strict():
    """A client of an emulator that accepts one API key, and two active invocations."""
    with KernelEmulator([APP], api_key="sk_right", max_concurrency=2) as emulator:
        yield client_of(emulator)


def test_wrong_key_raises_authentication_error(strict):
    with pytest.raises(kernel.AuthenticationError):
        strict.with_options(api_key="sk_wrong").auth.context.retrieve()
    assert strict.auth.context.retrieve()


@pytest.mark.parametrize(
    "names",
    [
        {"app_name": "nobody", "version": "latest", "action_name": "echo"},
        {"app_name": "tests", "version": "1.0.0", "action_name": "echo"},
        {"app_name": "tests", "version": "latest", "action_name": "nothing"},
    ],
)
def test_unknown_app_version_or_action_raises_not_found_error(client, names):
    with pytest.raises(kernel.NotFoundError):
        client.invocations.create(**names)


def test_full_account_raises_rate_limit_error_until_an_invocation_ends(strict):
    sleeping = {**LATEST, "action_name": "sleep", "payload": '{"seconds": 600}', "async_": True}
    first, _ = strict.invocations.create(**sleeping), strict.invocations.create(**sleeping)

    with pytest.raises(kernel.RateLimitError) as caught:
        strict.invocations.create(**sleeping)

    assert caught.value.response.headers["Retry-After"].isdigit()
    assert caught.value.body.keys() == {"code", "message"}
    assert caught.value.body["code"] == "rate_limit_exceeded"
    strict.invocations.update(first.id, status="failed")
    assert strict.invocations.create(**LATEST, action_name="echo", payload="1").status == "succeeded"


@pytest.mark.parametrize("limit", [None, 7])
def test_entitlements_have_the_limit_of_max_concurrency(start_emulator, limit):
    emulator = start_emulator(max_concurrency=limit)
    with kernel.Kernel(base_url=emulator.base_url, api_key="sk_x") as client:
        found = client.organization.entitlements.retrieve()
    assert found.limits.max_concurrent_invocations == (limit or 1_000_000)
    assert found.limits.default_max_concurrent_invocations_per_app == found.limits.max_concurrent_invocations
    assert found.features.search.enabled is False
    assert found.plan.effective_id == "ENTERPRISE"
    found.model_validate(found.to_dict(), strict=False)


@pytest.mark.parametrize(
    ("refuse", "project", "refused", "passed"),
    [
        ("spending-cap", None, {"POST"}, {"GET", "PATCH", "DELETE"}),
        ("insufficient-scope", None, {"POST", "PATCH", "DELETE"}, {"GET"}),
        ("other-project", "p", {"POST", "GET", "PATCH", "DELETE"}, set()),
        ("other-project", None, set(), {"POST", "GET", "PATCH", "DELETE"}),
        ("unknown-project", "p", {"POST", "GET", "PATCH", "DELETE"}, set()),
    ],
)
def test_refuse_option_refuses_methods(start_emulator, refuse, project, refused, passed):
    emulator = start_emulator(refuse=refuse)
    headers = {"X-Kernel-Project": project} if project else {}
    with kernel.Kernel(
        base_url=emulator.base_url, api_key="sk_x", max_retries=0, default_headers=headers
    ) as client:
        calls = {
            "POST": lambda: client.invocations.create(
                app_name="tests", action_name="echo", version="latest", payload="1"
            ),
            "GET": lambda: client.invocations.list(),
            "PATCH": lambda: client.invocations.update("none", status="failed"),
            "DELETE": lambda: client.invocations.delete_browsers("none"),
        }
        expected = kernel.NotFoundError if refuse == "unknown-project" else kernel.PermissionDeniedError
        for method in refused:
            with pytest.raises(expected) as error:
                calls[method]()
            assert error.value.body["code"] in ("forbidden", "insufficient_scope", "project_not_found")
        for method in passed:
            with suppress(kernel.NotFoundError):  # The id is unknown.
                calls[method]()
