"""The plugin for pytest in projects of users, and what its emulator tells a test."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from airflow_provider_kernel import testing
from airflow_provider_kernel.api.errors import (
    KernelApiError,
    KernelInvocationFailedError,
    KernelInvocationTimeoutError,
    KernelTransportError,
)
from airflow_provider_kernel.testing import BrowserServer
from airflow_provider_kernel.testing.emulator import EmulatedInvocation
from airflow_provider_kernel.testing.report import MAX_INVOCATIONS, MAX_LINES, describe_invocations
from tests.integration.browsing import needs_chromium
from tests.integration.pytest_plugin import ARGUMENTS, PLUGIN

pytestmark = [pytest.mark.no_airflow]
pytest_plugins = ["pytester"]

SHOP = """
import time
import kernel

app = kernel.App("shop")

@app.action("price")
def price(ctx: kernel.KernelContext, payload: dict) -> dict:
    print("looking up", payload["sku"])
    return {"price": 12.5}

@app.action("sleep")
def sleep(ctx: kernel.KernelContext) -> None:
    time.sleep(600)
"""


@pytest.fixture
def project(pytester):
    """A project with an app, which names it in its options."""
    pytester.mkdir("apps").joinpath("shop.py").write_text(SHOP)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nkernel_apps = ["apps/shop.py"]')
    return pytester


def run(project, *arguments, **files):
    project.makepyfile(**files)
    return project.runpytest_subprocess(*ARGUMENTS, *arguments, timeout=120)


def test_loading_the_plugin_imports_nothing_that_pytest_has_not_imported():
    code = (
        "import sys, _pytest.config; _pytest.config.get_config(); before = set(sys.modules)\n"
        f"import {PLUGIN}; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    ours = PLUGIN.split(".")
    assert loaded.stdout.split() == [".".join(ours[:length]) for length in (1, 2, 3)]


def test_every_public_name_can_be_imported_without_airflow():
    names = [name for name in testing.__all__ if testing._MODULES[name] != "airflow"]
    assert sorted(testing.__all__) == sorted(testing._MODULES)

    code = (
        f"import sys; from airflow_provider_kernel.testing import {', '.join(names)}\n"
        "print(*sorted({'airflow', 'kernel', 'requests', 'aiohttp', 'starlette'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert loaded.stdout == "\n"


def test_a_project_without_kernel_notices_nothing(pytester):
    done = run(
        pytester,
        test_any=f"""
import os, sys

def test_any():
    assert os.environ["AIRFLOW_HOME"] == {os.environ["AIRFLOW_HOME"]!r}
    assert not [name for name in os.environ if name.startswith(("KERNEL_", "AIRFLOW_"))
                and name != "AIRFLOW_HOME"]
    assert not [name for name in sys.modules if name.startswith("airflow_provider_kernel.testing.")
                and name != {PLUGIN!r}]

def test_fails():
    assert False
""",
    )

    done.assert_outcomes(passed=1, failed=1)
    assert "Kernel" not in done.stdout.str()


def test_fixtures_work_with_an_option_alone_and_tests_do_not_see_each_other(project):
    done = run(
        project,
        test_shop="""
import json, os, sys
import kernel, pytest
from airflow_provider_kernel.api.errors import KernelInvocationFailedError

def test_sdk(kernel_emulator):
    reply = kernel.Kernel().invocations.create(
        app_name="shop", action_name="price", version="latest", payload='{"sku": "A"}')
    assert json.loads(reply.output) == {"price": 12.5}
    connection = json.loads(os.environ["AIRFLOW_CONN_KERNEL_DEFAULT"])
    assert connection["conn_type"] == "kernel"
    assert connection["host"] == kernel_emulator.base_url
    assert connection["extra"]["dashboard_url"] == kernel_emulator.base_url + "/#/invocations/{invocation_id}"
    [invocation] = kernel_emulator.invocations("shop", "price")
    assert (invocation.id, invocation.status, invocation.log) == (reply.id, "succeeded", ["looking up A"])
    assert (invocation.payload, invocation.output) == ({"sku": "A"}, {"price": 12.5})
    assert "airflow" not in sys.modules

def test_environment_is_restored():
    assert "KERNEL_BASE_URL" not in os.environ
    assert "AIRFLOW_CONN_KERNEL_DEFAULT" not in os.environ

def test_leaves_an_invocation(kernel_emulator):
    assert kernel_emulator.invocations() == []
    kernel.Kernel().invocations.create(app_name="shop", action_name="sleep", version="latest", async_=True)

def test_finds_it_cancelled(kernel_emulator):
    assert kernel_emulator.invocations() == []
    assert [it.status for it in kernel.Kernel().invocations.list(action_name="sleep")] == ["failed"]
""",
    )

    done.assert_outcomes(passed=4)


def test_fixtures_can_be_overridden(pytester):
    app = SHOP.replace('{"price": 12.5}', "os.environ['CURRENCY']").replace("import time", "import os, time")
    pytester.makepyfile(
        shop=app,
        conftest="""
import pytest

@pytest.fixture(scope="session")
def kernel_emulator_apps():
    return ["shop.py"]

@pytest.fixture(scope="session")
def kernel_emulator_env():
    return {"CURRENCY": "GBP"}
""",
    )

    done = run(
        pytester,
        test_shop="""
def test_shop(kernel_emulator):
    assert kernel_emulator.invoke("shop", "price", {"sku": "A"}) == "GBP"
""",
    )

    done.assert_outcomes(passed=1)


def test_without_apps_a_sentence_says_what_to_write(pytester):
    done = run(pytester, test_shop="def test_shop(kernel_emulator): pass")

    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(['*Write kernel_apps = ?"apps/shop.py"? under ?tool.pytest.ini_options?*'])


def test_a_failed_test_shows_its_invocations_also_with_xdist(project):
    done = run(
        project,
        "-n2",
        test_shop="""
import base64, json
import pytest

def test_fails(kernel_emulator):
    kernel_emulator.invoke("shop", "price", {"sku": "A"})
    kernel_emulator.invoke("shop", "price", json.loads(base64.b64decode("eyJrZXkiOiAiaHVudGVyMiJ9")))

def test_passes(kernel_emulator):
    assert kernel_emulator.invoke("shop", "price", {"sku": "other"}) == {"price": 12.5}

@pytest.fixture
def broken(kernel_emulator):
    kernel_emulator.invoke("shop", "price", {"sku": "B"})
    raise ValueError

def test_has_a_fixture_that_fails(broken):
    pass

@pytest.fixture
def broken_at_the_end(kernel_emulator):
    yield
    kernel_emulator.invoke("shop", "price", {"sku": "at the end"})
    raise ValueError

def test_has_a_fixture_that_fails_at_its_end(broken_at_the_end):
    pass
""",
    )

    done.assert_outcomes(passed=2, failed=1, errors=2)
    done.stdout.fnmatch_lines_random(
        [
            "*- Kernel invocations -*",
            "shop.price (*) succeeded",
            "  | looking up A",
            "  | looking up B",
            "  | looking up at the end",
            "shop.price (*) failed: The action raised an exception.",
            '  |   File "*/apps/shop.py", line 9, in price',
            "  | KeyError: 'sku'",
        ]
    )
    assert "hunter2" not in done.stdout.str()
    assert "looking up other" not in done.stdout.str()


def test_invoke_returns_the_output_or_raises_with_the_reason(emulator):
    assert emulator.invoke("tests", "echo", {"a": 1}) == {"a": 1}
    with pytest.raises(
        KernelInvocationFailedError,
        match=r"The action raised an exception\.\nIts output: ValueError: no stock",
    ):
        emulator.invoke("tests", "fail", {"message": "no stock"})
    with pytest.raises(KernelApiError, match="Action not found: nothing"):
        emulator.invoke("tests", "nothing")


def test_invoke_cancels_what_takes_too_long(emulator, status):
    began = time.monotonic()
    with pytest.raises(KernelInvocationTimeoutError, match=r"not ended after 0\.2 seconds") as error:
        emulator.invoke("tests", "sleep", {"seconds": 600}, timeout=0.2)

    assert time.monotonic() - began < 60
    assert status(error.value.invocation_id) == "failed"


def test_invocations_are_those_since_the_test_began_and_can_be_filtered(emulator, client):
    emulator.invoke("tests", "echo", ["before"])
    with emulator.isolated():
        assert emulator.invocations() == []
        for number in (1, 2):
            emulator.invoke("tests", "echo", number)
        with pytest.raises(KernelInvocationFailedError):
            emulator.invoke("tests", "fail", {"message": "no stock"})

        assert [it.payload for it in emulator.invocations("tests", "echo")] == [1, 2]
        assert emulator.invocations("other") == []
        assert [it.action_name for it in emulator.invocations()] == ["echo", "echo", "fail"]
    assert ["before"] in [it.payload for it in emulator.invocations("tests", "echo")]


def test_what_a_test_leaves_active_is_cancelled(emulator, submit, status):
    with emulator.isolated():
        invocation_id = submit("sleep", {"seconds": 600}, wait_for="running")
        [invocation] = emulator.invocations()
        assert (invocation.id, invocation.is_active, invocation.output) == (invocation_id, True, None)

    assert status(invocation_id) == "failed"


@needs_chromium
def test_browsers_that_a_test_leaves_open_are_closed(emulator, client):
    other = client.browsers.create(headless=True).session_id
    with emulator.isolated():
        left = client.browsers.create(headless=True).session_id

    found = {browser.session_id for browser in client.browsers.list()}
    assert (other in found, left in found) == (True, False)
    client.browsers.delete_by_id(other)


def test_an_error_of_the_test_is_not_hidden_by_an_emulator_that_has_ended(start_emulator):
    emulator = start_emulator()

    def test():
        with emulator.isolated():
            emulator.stop()
            raise LookupError

    with pytest.raises(LookupError):
        test()


def test_ctrl_c_reaches_the_test_and_not_its_emulator(emulator):
    # The terminal sends SIGINT to the process group of the test.
    assert os.getpgid(emulator.pid) != os.getpgrp()


def test_an_active_invocation_has_the_log_so_far(emulator, submit, until):
    with emulator.isolated():
        submit("sleep", {"seconds": 600}, wait_for="running")
        until(lambda: emulator.invocations()[0].log == ["sleeping"])


def test_a_fault_counts_and_ends_with_its_block(emulator):
    with emulator.isolated():
        with emulator.fault(method="POST", path="/invocations", status=429, retry_after=7) as fault:
            assert fault.applied == 0
            with pytest.raises(KernelApiError, match="429") as error:
                emulator.invoke("tests", "echo", 1)
            assert error.value.retry_after == 7
        assert emulator.invoke("tests", "echo", 1) == 1
        assert fault.applied == 1


def test_a_fault_may_lose_a_reply_and_is_not_seen_by_the_test_itself(emulator):
    with emulator.isolated():
        fault = emulator.fault(lose_reply=True)
        with pytest.raises(KernelTransportError, match="no reply of the emulator to POST /invocations"):
            emulator.invoke("tests", "echo", 1)
        assert [it.payload for it in emulator.invocations()] == [1]
        assert fault.applied == 1


def test_faults_and_settings_last_until_the_end_of_a_test(emulator, submit, status):
    with emulator.isolated():
        emulator.fault(status=500)
        emulator.fault(latency=0.01).remove()
        emulator.max_concurrency = 2
        emulator.max_concurrency = 1
        emulator.refuse = "spending-cap"
        assert (emulator.max_concurrency, emulator.refuse) == (1, "spending-cap")

    assert (emulator.max_concurrency, emulator.refuse) == (None, None)
    assert emulator.invoke("tests", "echo", 1) == 1


def test_what_fixtures_have_set_for_several_tests_outlasts_each(emulator):
    with emulator.isolated(), emulator.fault(path="/apps", status=500) as fault:
        emulator.max_concurrency = 2
        with emulator.isolated():
            emulator.fault(path="/deployments", status=500)
            emulator.max_concurrency = 1

        assert emulator.max_concurrency == 2
        for path in ("/apps", "/deployments"):
            with contextlib.suppress(KernelApiError):
                emulator._client.request("GET", path)
        assert fault.applied == 1

    assert emulator.max_concurrency is None


def test_no_report_shows_the_api_key_also_with_local_variables(project):
    project.makeconftest("""
import pytest
from airflow_provider_kernel.testing import KernelEmulator

@pytest.fixture(scope="session")
def kernel_emulator_session(kernel_emulator_apps):
    with KernelEmulator(kernel_emulator_apps, api_key="canary-key", env={"A": "canary-value"}) as emulator:
        yield emulator
""")
    done = run(
        project,
        "--showlocals",
        test_shop="""
def test_error(kernel_emulator):
    kernel_emulator.fault()

def test_ended(kernel_emulator):
    kernel_emulator._process.kill()
    kernel_emulator.invocations()
""",
    )

    done.assert_outcomes(failed=2, errors=1)
    assert "canary" not in done.stdout.str()


def test_ctrl_c_is_for_the_tests_alone(start_emulator):
    assert os.getpgid(start_emulator().pid) != os.getpgrp()


def test_an_active_invocation_is_cancelled_although_its_test_had_requests_refused(emulator, submit, status):
    with emulator.isolated():
        invocation_id = submit("sleep", {"seconds": 600}, wait_for="running")
        emulator.fault(status=500)
        emulator.refuse = "insufficient-scope"

    assert status(invocation_id) == "failed"


def test_a_fault_that_contradicts_itself_is_refused(emulator):
    with pytest.raises(KernelApiError, match="400"):
        emulator.fault(status=500, lose_reply=True)


class _Emulator:
    """An emulator with these invocations."""

    def __init__(self, *invocations: EmulatedInvocation) -> None:
        self._invocations = list(invocations)

    def invocations(self) -> list[EmulatedInvocation]:
        return self._invocations


def made(number: int, status: str = "succeeded", **fields) -> EmulatedInvocation:
    return EmulatedInvocation(f"id{number}", "shop", "price", "emulator", status, **fields)


def test_the_section_is_bounded_and_shows_failures_first():
    failed = made(0, "failed", status_reason="It failed.", log=[f"line {number}" for number in range(1000)])
    section = describe_invocations(_Emulator(failed, *(made(number) for number in range(1, 100))))

    lines = section.splitlines()
    assert lines[0] == "shop.price (id0) failed: It failed."
    assert lines[1] == f"  | [{1000 - MAX_LINES} earlier lines]"
    assert lines[1 + MAX_LINES] == "  | line 999"
    assert lines[-1] == f"[{100 - MAX_INVOCATIONS} more invocations]"


def test_the_section_has_no_control_characters_and_an_error_that_the_log_lacks():
    section = describe_invocations(
        _Emulator(made(1, "failed", output="out of paper", log=["\x1b[2J" + "x" * 9999]))
    )

    assert "\x1b" not in section
    assert len(section) < 1000
    assert section.endswith("out of paper")


def test_the_section_says_that_the_emulator_has_ended(start_emulator):
    emulator = start_emulator()
    emulator.stop()

    assert (
        describe_invocations(emulator) == "The emulator did not answer: The Kernel emulator is not started."
    )


@pytest.fixture
def pages():
    with BrowserServer() as server:
        yield server


@pytest.mark.parametrize(
    ("body", "content", "content_type"),
    [
        ("<p>£1</p>", "<p>£1</p>".encode(), "text/html; charset=utf-8"),
        (b"\x00", b"\x00", "application/octet-stream"),
        ({"a": [1]}, b'{"a": [1]}', "application/json"),
        ([1], b"[1]", "application/json"),
        (lambda request: [request.method, request.query], b'["GET", {"q": "1"}]', "application/json"),
    ],
    ids=["html", "bytes", "dict", "list", "function"],
)
def test_browser_server_serves(pages, body, content, content_type):
    url = pages.add("/page", body)

    reply = httpx.get(url, params={"q": "1"})

    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, content, content_type)


def test_browser_server_serves_files_and_folders_and_nothing_beside_them(pages, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (site / "index.html").write_text("index")
    (site / "link.txt").symlink_to(tmp_path / "secret.txt")
    pages.add("/site", site)
    pages.add("/one", site / "index.html")

    def get(path):
        # A raw request: a client would shorten "..".
        with httpx.Client(base_url=pages.url) as client:
            request = client.build_request("GET", "/")
            request.url = request.url.copy_with(raw_path=path.encode())
            return client.send(request)

    assert get("/site").headers["location"] == "/site/"
    assert get("/site/").text == get("/site/index.html").text == get("/one").text == "index"
    for path in (
        "/site/../secret.txt",
        "/site/%2e%2e/secret.txt",
        "/site//etc/passwd",
        "/site/link.txt",
        "/one/x",
        "/none",
    ):
        assert get(path).status_code == 404, path


def test_browser_server_records_what_was_visited(pages):
    pages.add("/page", "x", status=418, content_type="text/plain", headers={"X-Shop": "1"})

    reply = httpx.post(f"{pages.url}/page?q=a&q=b", content=b"body", headers={"X-Test": "1"})
    httpx.get(f"{pages.url}/favicon.ico")
    missing = httpx.get(f"{pages.url}/missing")

    assert (reply.status_code, reply.headers["content-type"], reply.headers["x-shop"]) == (
        418,
        "text/plain",
        "1",
    )
    assert missing.status_code == 404
    first, second = pages.requests
    assert (first.method, first.path, first.query, first.body) == ("POST", "/page", {"q": "b"}, b"body")
    assert first.headers["x-test"] == "1"
    assert second.path == "/missing"


def test_browser_server_shows_the_error_of_a_function(pages):
    reply = httpx.get(pages.add("/page", lambda request: request.nothing))

    assert reply.status_code == 500
    assert "has no attribute 'nothing'" in reply.text


def test_a_browser_that_leaves_its_page_prints_nothing(pages, until, capfd):
    url = pages.add("/large", b"x" * 50_000_000)
    threads = threading.active_count()
    with socket.create_connection(("127.0.0.1", urlsplit(url).port)) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        until(lambda: pages.requests)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: threading.active_count() == threads)

    assert capfd.readouterr().err == ""


def test_browser_server_refuses_a_path_without_a_slash(pages):
    with pytest.raises(ValueError, match="write '/lamp'"):
        pages.add("lamp", "")
