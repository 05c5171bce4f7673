"""What a person sees of the emulator in the terminal."""

import asyncio
import re
import subprocess
import sys
import time

import httpx
import kernel
import pytest

from airflow_provider_kernel.hooks.kernel import KernelHook
from dev.wait import wait_until
from tests.integration.emulator_process import emulator_process, free_port

pytestmark = pytest.mark.one_airflow

APP = """
import kernel, os, sys
app = kernel.App("shop")
@app.action("act")
def act(ctx):
    print("looking up")
    return "secret output"
@app.action("fail")
def fail(ctx, payload):
    raise ValueError("no such sku")
@app.action("control")
def control(ctx):
    sys.stdout.buffer.write(b"\\x1b[2J\\x1b]0;title\\x07 \\x9b \\xe2\\x80\\xae 10%\\r20%\\n" + b"y" * 60_000)
@app.action("flood")
def flood(ctx, lines):
    for number in range(lines):
        print(number, "z" * 100)
"""
ACT = {"app_name": "shop", "action_name": "act", "version": "latest"}


@pytest.fixture
def app_file(tmp_path):
    file = tmp_path / "shop.py"
    file.write_text(APP)
    return file


def post(emulator, body, **headers):
    headers = {"Authorization": "Bearer sk_secret"} | headers
    return httpx.post(f"{emulator.url}/invocations?secret=query", json=body, headers=headers, timeout=20)


def test_invocations_are_printed_from_start_to_end(app_file):
    with emulator_process(app_file) as emulator:
        done = emulator.invoke()
        bad = emulator.invoke("fail", payload='{"sku": "secret payload"}')
        emulator.wait_for("fail failed")
        lines = emulator.lines
    one, two = done.id[:8], bad.id[:8]

    assert lines[:4] == [
        f"{one} shop.act started from the Python SDK (invocation {done.id})",
        f"{one} | looking up",
        lines[2],
        f"{two} shop.fail started from the Python SDK (invocation {bad.id})",
    ]
    assert re.fullmatch(rf"{one} shop\.act succeeded in \d+\.\d s", lines[2])
    assert f"{two} | ValueError: no such sku" in lines
    assert re.fullmatch(
        rf"{two} shop\.fail failed after \d+\.\d s: The action raised an exception\. ValueError: no such sku",
        lines[-1],
    )
    assert all(line.startswith(f"{two} | ") for line in lines[4:-1])


def test_times_are_those_of_the_local_clock(app_file):
    with emulator_process(app_file, TZ="XXX-05:30") as emulator:
        emulator.invoke()
        printed = emulator.wait_for(r"\n(\d\d):(\d\d):\d\d \w+ shop.act started")
    india = time.gmtime(time.time() + 5.5 * 3600)

    minutes = india.tm_hour * 60 + india.tm_min - int(printed[1]) * 60 - int(printed[2])
    assert minutes % 1440 <= 1


def test_start_says_which_client_has_submitted(app_file, connect):
    with emulator_process(app_file) as emulator:
        connect(host=emulator.url, password="sk_secret")
        with KernelHook() as hook:
            hook.invoke("shop", "act", None)

        async def submit():
            async with kernel.AsyncKernel(base_url=emulator.url, api_key="sk_secret") as client:
                await client.invocations.create(**ACT)

        asyncio.run(submit())
        for agent in ("Kernel/JS 0.84.0", "curl/8.5.0", "Mozilla/5.0 (X11)", ""):
            post(emulator, ACT, **{"User-Agent": agent})
        emulator.stop()
        started = [re.sub(r".* started", "", line) for line in emulator.lines if " started" in line]
        printed = emulator.printed

    assert [text.partition(" (")[0] for text in started] == [
        " from Airflow",
        " from the Python SDK",
        " from the Node SDK",
        " from curl",
        " from a browser",
        "",
    ]
    assert "sk_secret" not in printed


def test_refusals_are_printed_and_answered_polls_are_not(app_file):
    with emulator_process(app_file, "--max-concurrency=1") as emulator:
        post(emulator, {**ACT, "app_name": "shopp"})
        post(emulator, {**ACT, "version": 1})
        post(emulator, ACT, Authorization="")
        post(emulator, ACT, Host="evil.example")
        post(emulator, ACT, Origin="http://evil.example")
        httpx.put(f"{emulator.url}/invocations", headers={"Authorization": "Bearer x"})
        list(emulator.client.invocations.list())
        emulator.client.apps.list()
        emulator.stop()
        lines, printed = emulator.lines, emulator.printed

    assert lines == [
        "404 POST /invocations: App not found: shopp",
        "400 POST /invocations: version must be a non-empty string",
        "401 POST /invocations: Missing bearer token",
        "421 POST /invocations: The Host header names another host; use the address that the emulator printed",
        "403 POST /invocations: The request comes from a web page of another host",
        "405 PUT /invocations: Method Not Allowed",
    ]
    assert "secret" not in printed


def test_full_account_is_printed_as_a_refusal(app_file):
    app_file.write_text(APP + "@app.action('sleep')\ndef sleep(ctx):\n    __import__('time').sleep(600)\n")
    with emulator_process(app_file, "--max-concurrency=1") as emulator:
        emulator.invoke("sleep", async_=True)
        post(emulator, ACT)
        emulator.wait_for("429 POST /invocations: Limit of 1 concurrent invocations reached")
        emulator.stop()

        assert emulator.lines[-1].endswith(" s: The emulator was stopped.")


def test_verbose_prints_each_request_without_its_query(app_file):
    with emulator_process(app_file, "--verbose") as emulator:
        post(emulator, ACT)
        list(emulator.client.invocations.list())
        emulator.stop()
        requests = [re.sub(r"\d+ ms", "1 ms", line) for line in emulator.lines if line.startswith("200 ")]

    assert requests == ["200 POST /invocations (1 ms)", "200 GET /invocations (1 ms)"]


def test_quiet_prints_the_announcement_alone(app_file):
    with emulator_process(app_file, "--quiet") as emulator:
        emulator.invoke()
        post(emulator, {**ACT, "app_name": "shopp"})
        emulator.stop()

        assert emulator.lines == []


def test_quiet_and_verbose_exclude_each_other(app_file):
    command = [
        sys.executable,
        "-m",
        "airflow_provider_kernel.emulator",
        "--quiet",
        "--verbose",
        str(app_file),
    ]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 2
    assert "not allowed with argument --quiet" in done.stderr


@pytest.mark.parametrize(
    ("terminal", "environment", "has_colour"),
    [
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (False, {"TERM": "xterm"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
    ],
)
def test_lines_have_colours_where_the_terminal_has_them(app_file, terminal, environment, has_colour):
    with emulator_process(app_file, terminal=terminal, **environment) as emulator:
        emulator.invoke()
        emulator.wait_for("succeeded")

        assert ("\x1b[32msucceeded\x1b[0m" in emulator.printed) is has_colour
        assert ("\x1b" in emulator.printed) is has_colour
        assert emulator.printed.startswith("Kernel emulator on http://")


def test_an_apps_control_characters_do_not_reach_the_terminal(app_file):
    with emulator_process(app_file, terminal=True, NO_COLOR="1") as emulator:
        emulator.invoke("control")
        emulator.wait_for("succeeded")
        lines, printed = emulator.lines, emulator.printed

    assert lines[1].endswith(" | \\x1b[2J\\x1b]0;title\\x07 \ufffd \\u202e 10%\\r20%")
    assert lines[2].endswith("y [58000 more characters]")
    assert not re.search(r"[^\n\r\x20-\x7e\ufffd]", printed)


def test_emulator_serves_when_nobody_can_read_its_output(app_file):
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", str(app_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[-1]
        process.stdout.close()
        client = kernel.Kernel(base_url=url, api_key="x", max_retries=0, timeout=20)
        assert [client.invocations.create(**ACT).status for _ in range(3)] == ["succeeded"] * 3
        process.terminate()
        errors = process.stderr.read()

    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_emulator_serves_when_it_is_started_with_closed_streams(app_file, closed):
    port = free_port()
    shell = f'exec "$0" -m airflow_provider_kernel.emulator --port={port} "$1" {closed}'
    with (
        httpx.Client() as http,
        subprocess.Popen(["bash", "-c", shell, sys.executable, str(app_file)]) as process,
    ):
        url = f"http://127.0.0.1:{port}"

        def is_up():
            try:
                return http.get(f"{url}/apps").status_code == 401
            except httpx.ConnectError:
                return False

        try:
            wait_until(is_up, 30, "the emulator answers")
            client = kernel.Kernel(base_url=url, api_key="x", max_retries=0)
            reply = client.invocations.create(**ACT)
        finally:
            process.terminate()

    assert (process.returncode, reply.output) == (0, '"secret output"')


def test_unread_pipe_full_of_an_apps_output_holds_nothing_up(app_file):
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", str(app_file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[-1]
        client = kernel.Kernel(base_url=url, api_key="x", max_retries=0, timeout=60)
        flood = client.invocations.create(
            app_name="shop", action_name="flood", version="latest", payload="100000"
        )
        after = client.invocations.create(**ACT)
        process.terminate()
        process.wait(20)

    assert (flood.status, after.status, process.returncode) == ("succeeded", "succeeded", 0)


def test_output_of_a_pipe_that_somebody_reads_is_complete(app_file):
    with emulator_process(app_file) as emulator:
        emulator.invoke("flood", payload="20000")
        emulator.stop()
        numbers = [int(line.split()[2]) for line in emulator.lines[1:-1]]

    assert numbers == list(range(20_000))
