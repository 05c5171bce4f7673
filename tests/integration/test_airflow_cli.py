"""`airflow`, the real command line: a connection in every form that it has, and a Dag without a scheduler."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from urllib.parse import quote, urlsplit

import pytest
from kernel import Kernel

from airflow_provider_kernel.testing import KernelEmulator
from dev.processes import REPOSITORY
from tests.integration.conftest import APP
from tests.integration.forkserver import ForkServer
from tests.integration.proxying import PasswordProxy, proxying

EXAMPLES = REPOSITORY / "example_dags"
TOKEN = "sk_good_token/+@:%"
PASSWORD = "p:a@s/s#1"
Cli = Callable[..., str]
BEFORE_3_1 = version("apache-airflow").startswith(("2.", "3.0."))


@pytest.fixture(scope="module")
def kernel():
    """A Kernel that takes one token only."""
    with KernelEmulator([APP], api_key=TOKEN) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def proxy():
    with proxying("user", PASSWORD) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Processes with a database of their own."""
    home = tmp_path_factory.mktemp("airflow")
    env = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(shutil.copytree(EXAMPLES, home / "dags")),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "COLUMNS": "1000",
    }
    with ForkServer(home, **env) as server:
        yield server


@pytest.fixture(scope="module")
def cli(server: ForkServer) -> Cli:
    """Run `airflow`; return what it prints."""

    def run(*arguments: str, **more: str) -> str:
        done = server.run("from airflow.__main__ import main; main()", *arguments, **more)
        assert done.returncode == 0 or arguments[1] == "test", done.stdout + done.stderr
        assert TOKEN not in done.stderr
        assert PASSWORD not in done.stderr
        return done.stdout

    run("db", "migrate")
    return run


def as_json(kernel: KernelEmulator, proxy: PasswordProxy, **fields: str) -> str:
    extra = {
        "project": "reports",
        "timeout": 5,
        "proxy": f"http://user:{quote(PASSWORD, safe='')}@{proxy.address}",
        "verify": True,
        "allow_http": False,
    }
    return json.dumps(
        {"conn_type": "kernel", "host": kernel.base_url, "password": TOKEN, "extra": extra, **fields}
    )


def as_uri(kernel: KernelEmulator, proxy: PasswordProxy) -> str:
    extra = {
        "project": "reports",
        "timeout": "5",
        "proxy": f"http://user:{quote(PASSWORD, safe='')}@{proxy.address}",
        "verify": "true",
        "allow_http": "false",
    }
    parameters = "&".join(f"{name}={quote(value, safe='')}" for name, value in extra.items())
    return f"kernel://:{quote(TOKEN, safe='')}@{urlsplit(kernel.base_url).netloc}/?{parameters}"


@pytest.mark.one_airflow
@pytest.mark.parametrize("option", ["--conn-json", "--conn-uri"])
def test_an_added_connection_is_stored_and_passes_the_test(cli, kernel, proxy, option):
    conn_id = f"kernel_{option[-4:].strip('-')}"
    text = {"--conn-json": as_json, "--conn-uri": as_uri}[option](kernel, proxy)
    passed = len(proxy.passed)

    cli("connections", "add", conn_id, option, text)

    output = cli("connections", "get", conn_id, "--output", "json")
    shown = json.loads(output[output.index("[{") :])[0]  # Airflow 3.2 writes log lines there, too
    assert (shown["conn_type"], shown["password"]) == ("kernel", TOKEN)
    assert shown["extra_dejson"]["project"] == "reports"
    assert "Connection success!" in cli("connections", "test", conn_id)
    assert len(proxy.passed) == passed + 2  # whose the token is, and the account's limits


@pytest.mark.one_airflow
def test_a_connection_added_field_by_field_passes_the_test(cli, kernel):
    fields = ["--conn-type", "kernel", "--conn-host", kernel.base_url, "--conn-password", TOKEN]
    cli("connections", "add", "kernel_fields", *fields, "--conn-extra", '{"project": "reports"}')
    assert "Connection success!" in cli("connections", "test", "kernel_fields")


def test_a_connection_in_the_environment_passes_the_test(cli, kernel, proxy):
    passed = len(proxy.passed)
    said = cli("connections", "test", "kernel_env", AIRFLOW_CONN_KERNEL_ENV=as_uri(kernel, proxy))
    assert "Connection success!" in said
    assert len(proxy.passed) == passed + 2  # whose the token is, and the account's limits


@pytest.mark.one_airflow
def test_a_bad_connection_fails_the_test_with_advice(cli, kernel, proxy):
    bad = as_json(kernel, proxy, password="sk_wrong_token")
    said = cli("connections", "test", "kernel_env", AIRFLOW_CONN_KERNEL_ENV=bad)
    assert "Connection failed!" in said
    assert "Make a token at https://dashboard.onkernel.com/api-keys" in said
    assert "sk_wrong_token" not in said


@pytest.mark.one_airflow
def test_a_missing_connection_fails_dags_test_at_once(cli):
    """Its task has retries, for which `airflow dags test` would wait in silence."""
    said = cli("dags", "test", "example_kernel_invoke")
    assert "There is no Airflow connection 'kernel_default'" in said
    assert re.search(r"Marking run .* failed", said)
    assert said.count("[DAG TEST] starting task_id") <= 1
    assert "up_for_retry" not in said.lower()


@pytest.mark.one_airflow
def test_the_tolerant_recipe_continues_with_the_successes_and_names_the_failures(cli):
    with KernelEmulator([EXAMPLES / "apps/bookshop/main.py"]) as emulator:
        said = cli(
            "dags",
            "test",
            "example_kernel_tolerant",
            AIRFLOW_CONN_KERNEL_DEFAULT=emulator.connection_json,
        )
    assert said.count("there is no genre 'Heraldry'") >= 2, "the failed invocation, and its retry"
    averages = "{'Art': 32.91, 'Cooking': 31.4, 'Poetry': 32.3}"
    failed = "['Astrology', 'Heraldry', 'Pottery']"
    assert f"Returned value was: {{'average_prices': {averages}, 'failed': {failed}}}" in said
    assert re.search(r"Marking run .* successful", said)


def test_dags_test_runs_a_dag_with_a_stored_connection(cli):
    """The trigger runs in a process of its own, where connections are read in another way."""
    with KernelEmulator([EXAMPLES / "apps/bookshop/main.py"]) as emulator:
        cli("connections", "add", "kernel_default", "--conn-json", emulator.connection_json)
        said = cli("dags", "test", "example_kernel_decorator")
    assert re.search(r"\[app\] .*2/2 Travel", said)
    assert "Returned value was: The Little Mountain, vol. 2223" in said
    assert re.search(r"Marking run .* successful", said)


#: Presses Ctrl-C once the invocation runs and is waited for; and again where Airflow takes that for a failed try.
INTERRUPTED = """
import os, pathlib, signal, threading, time

import kernel
from airflow.__main__ import main


def is_said(words):
    return any(words in pathlib.Path(name).read_text() for name in ("stdout", "stderr"))


def is_waited_for():
    running = [one.status for one in kernel.Kernel().invocations.list()] == ["running"]
    return running and ("async_" in os.environ["ARGUMENTS"] or is_said("it waits"))


def interrupt():
    for is_time in (is_waited_for, lambda: is_said("No tasks to run")):
        while not is_time():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)


signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Thread(target=interrupt, daemon=True).start()
main()
"""
DAG = """
import json, os

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_kernel.operators.kernel import KernelInvokeOperator

with DAG("interrupted", schedule=None):
    arguments = json.loads(os.environ.get("ARGUMENTS", "{}"))
    KernelInvokeOperator(task_id="t", app_name="waits", action_name="wait", payload={}, retries=1, **arguments)
"""
WAITS = """
import time

import kernel

app = kernel.App("waits")


@app.action("wait")
def wait(ctx, payload):
    print("it waits")
    time.sleep(600)
"""


@pytest.mark.one_airflow
@pytest.mark.parametrize(
    ("arguments", "runs_on"),
    [
        ({}, None),
        ({"defer_after": 0}, None),
        ({"deferrable": False}, None),
        ({"async_": False}, None),
        ({"deferrable": False, "cancel_on_kill": False}, "runs on (cancel_on_kill=False), for 900 s at most"),
        ({"defer_after": 0, "cancel_on_kill": False}, "runs on (cancel_on_kill=False) until it ends"),
        ({"async_": False, "cancel_on_kill": False}, "The invocation may run on (cancel_on_kill=False)"),
    ],
)
@pytest.mark.usefixtures("cli")
def test_ctrl_c_cancels_the_invocation_or_says_that_it_runs_on(server, tmp_path, arguments, runs_on):
    (server.home / "dags" / "interrupted.py").write_text(DAG)
    (tmp_path / "waits.py").write_text(WAITS)
    with KernelEmulator([tmp_path / "waits.py"]) as emulator:
        env = {
            **emulator.env(),
            "AIRFLOW_CONN_KERNEL_DEFAULT": emulator.connection_json,
            "ARGUMENTS": json.dumps(arguments),
        }
        done = server.run(INTERRUPTED, "dags", "test", "interrupted", **env)
        with Kernel(base_url=emulator.base_url, api_key=emulator.api_key) as client:
            [invocation] = client.invocations.list()
    said = done.stdout + done.stderr
    assert "KeyboardInterrupt" in said
    if BEFORE_3_1 and "defer_after" in arguments:
        # A trigger cannot tell Ctrl-C from a triggerer that stops.
        assert invocation.status == "running"
        assert runs_on or f"Kernel invocation {invocation.id} runs on: the task was not killed." in said
    elif runs_on:
        assert invocation.status == "running"
        assert runs_on in said
    else:
        assert invocation.status == "failed", said
        assert f"Kernel invocation {invocation.id} was cancelled" in said
