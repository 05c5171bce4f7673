"""What the Test button of a connection says, over real HTTP."""

from __future__ import annotations

import json
import socket
import time

import pytest

from airflow_provider_kernel.hooks import connection, connection_test
from airflow_provider_kernel.hooks.kernel import KernelHook
from tests.integration.scripted import Reply, error, html, serving

TOKEN = "sk_canary_0123456789"
WHO = "GET /auth/context"
KEYS = "Make a token at https://dashboard.onkernel.com/api-keys and put it into the connection as its token"


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture
def press(monkeypatch):
    """Press the button of a connection with these fields."""

    def press(**fields):
        connection = {"conn_type": "kernel", "password": TOKEN, **fields}
        monkeypatch.setenv("AIRFLOW_CONN_KERNEL_DEFAULT", json.dumps(connection))
        return KernelHook().test_connection()

    return press


def context(project):
    return Reply(
        200,
        {"organization": {"id": "org_1"}, "authorization": {"effective_scope": {"project_id": project}}},
    )


@pytest.mark.parametrize(
    ("reply", "project", "good", "says"),
    [
        (context("p_1"), "reports", True, "The token is valid: organization org_1, project p_1."),
        (context(None), None, True, "The token is valid: organization org_1, no particular project."),
        (context(None), "reports", False, "Kernel does not apply the project 'reports'."),
        (error(401, "unauthorized"), None, False, f"answered 401 unauthorized: Kernel's sentence. {KEYS}"),
        (error(401), "reports", False, KEYS),
        (
            error(403),
            "reports",
            False,
            "The connection's project is 'reports': check that it exists and that the token",
        ),
        (
            error(404),
            "reports",
            False,
            "The connection's project is 'reports': check that it exists and that the token",
        ),
        (error(404), None, False, "answered 404 an_error: Kernel's sentence"),
        (error(500), "reports", False, "answered 500 an_error: Kernel's sentence"),
        (Reply(drop=True), None, False, "broke. Check the connection's host and proxy"),
        (html(200), None, False, "text/html that is not Kernel's"),
        (Reply(200, {"hello": "world"}), None, False, "not as Kernel does. Check the connection's host."),
        (Reply(200, []), None, False, "Check the connection's host"),
    ],
)
def test_message_states_the_problem_and_the_remedy(server, press, reply, project, good, says):
    server.on(WHO, reply)
    tested, sentence = press(host=server.url, extra={"project": project})
    assert tested is good
    assert says in sentence
    assert TOKEN not in sentence
    assert len(server.seen(WHO)) == 1


LIMITS = "GET /org/entitlements"


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (
            Reply(
                200,
                {
                    "limits": {
                        "max_concurrent_invocations": 50,
                        "default_max_concurrent_invocations_per_app": 20,
                    }
                },
            ),
            "no particular project. Its limit is 50 invocations at a time, 20 of one app.",
        ),
        (
            Reply(200, {"limits": {"max_concurrent_invocations": 5}}),
            "no particular project. Its limit is 5 invocations at a time.",
        ),
        (Reply(200, {"limits": {"max_concurrent_invocations": "many"}}), "no particular project."),
        (Reply(200, {"limits": None}), "no particular project."),
        (Reply(200, []), "no particular project."),
        (error(403), "no particular project."),
        (error(404), "no particular project."),
        (error(500), "no particular project."),
        (html(200), "no particular project."),
        (Reply(drop=True), "no particular project."),
    ],
)
def test_message_contains_the_limits_when_the_token_may_read_them(server, press, reply, says):
    server.on(WHO, context(None))
    server.on(LIMITS, reply)
    tested, sentence = press(host=server.url)
    assert tested
    assert sentence.endswith(says)


def test_token_is_valid_when_the_limits_do_not_arrive(server, press, monkeypatch):
    monkeypatch.setattr(connection_test, "TEST_SECONDS", 1.0)
    server.on(WHO, context(None))
    server.on(LIMITS, lambda request: (server.over.wait(30) and Reply()) or Reply())
    tested, sentence = press(host=server.url)
    assert tested
    assert sentence.endswith("no particular project.")


def test_message_contains_an_extra_without_effect(server, press):
    server.on(WHO, context(None))
    tested, sentence = press(host=server.url, extra={"timeuot": 5})
    assert tested
    assert sentence.endswith("the extra 'timeuot' is unknown and has no effect. Did you mean 'timeout'?")


@pytest.mark.parametrize(
    ("refuse", "project", "says"),
    [
        (
            "other-project",
            "reports",
            "The API key is of another project than the one that the connection names",
        ),
        ("unknown-project", "reports", "The connection names a project that does not exist or is not active"),
        ("other-project", None, "The token is valid"),
        ("spending-cap", None, "The token is valid"),  # what Kernel refuses then is new invocations
        ("insufficient-scope", None, "The token is valid"),
    ],
)
def test_message_explains_the_emulators_refusals(start_emulator, press, refuse, project, says):
    emulator = start_emulator(refuse=refuse)
    assert says in press(host=emulator.base_url, extra={"project": project})[1]


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        ("insufficient_scope", "Not allowed", "The scope of the API key does not allow this"),
        (
            "forbidden",
            "Spending cap reached",
            "The spending cap of the organization or of the project is reached",
        ),
    ],
)
def test_message_does_not_mention_the_project_when_the_refusal_has_another_reason(
    server, press, code, message, says
):
    server.on(WHO, Reply(403, {"code": code, "message": message}))
    tested, sentence = press(host=server.url, extra={"project": "reports"})
    assert not tested
    assert says in sentence
    assert "'reports'" not in sentence


def test_message_names_an_unusable_dashboard_address(server, press):
    server.on(WHO, context(None))
    tested, sentence = press(host=server.url, extra={"dashboard_url": "https://d.example/{id}"})
    assert tested is False
    assert "The connection's extra 'dashboard_url' must be an http(s) address" in sentence


def test_message_says_that_the_token_is_missing(press):
    tested, sentence = press(password=None)
    assert not tested
    assert "has no token. Make one at https://dashboard.onkernel.com/api-keys" in sentence


@pytest.mark.parametrize("is_missing", [True, False])
def test_message_says_that_the_connection_is_missing(monkeypatch, is_missing):
    monkeypatch.setattr(connection, "ASK_AGAIN_AFTER", 0)
    monkeypatch.setattr(connection, "_is_missing", lambda conn_id: is_missing)
    tested, sentence = KernelHook("no_such_connection").test_connection()
    assert not tested
    assert "no Airflow connection 'no_such_connection'. Make one of type 'kernel'" in sentence
    assert "Check the connection's host" not in sentence


def test_message_says_that_nothing_listens(press):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    tested, sentence = press(host=f"http://127.0.0.1:{port}")
    assert not tested
    assert "could not be reached (Connection refused). Is the emulator running there?" in sentence


def test_message_says_that_the_host_does_not_exist(press):
    tested, sentence = press(host="https://kernel.invalid")
    assert not tested
    assert "https://kernel.invalid could not be reached" in sentence
    assert "Check the connection's host and proxy" in sentence


def test_message_mentions_verify_when_the_certificate_is_unknown(tls, press):
    with serving(tls.server()) as server:
        tested, sentence = press(host=server.url)
        assert not tested
        assert "put the path of the CA's file into the extra 'verify'" in sentence
        server.on(WHO, context("p_1"))
        assert press(host=server.url, extra={"verify": tls.ca})[0]


def test_check_ends_in_time_when_the_host_never_answers(server, press, monkeypatch):
    monkeypatch.setattr(connection_test, "TEST_SECONDS", 0.5)
    server.on(WHO, lambda request: (server.over.wait(30) and Reply()) or Reply())
    started = time.monotonic()
    tested, sentence = press(host=server.url, extra={"timeout": 3600})
    assert time.monotonic() - started < 5
    assert not tested
    assert "did not" in sentence
