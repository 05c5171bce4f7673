"""`airflow`, the real command line: a connection in every form that it has, and a Dag without a scheduler."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev.processes import REPOSITORY
from tests.integration.conftest import APP
from tests.integration.forkserver import ForkServer
from tests.integration.proxying import PasswordProxy, proxying

EXAMPLES = REPOSITORY / "example_dags"
TOKEN = "sk_good_token/+@:%"
PASSWORD = "p:a@s/s#1"
Cli = Callable[..., str]


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
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """Run `airflow`, with a database of its own; return what it prints."""
    env = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "COLUMNS": "1000",
    }
    with ForkServer(tmp_path_factory.mktemp("airflow"), **env) as server:

        def run(*arguments: str, **more: str) -> str:
            done = server.run("from airflow.__main__ import main; main()", *arguments, **more)
            assert done.returncode == 0 or arguments[:2] == ("connections", "test"), done.stdout + done.stderr
            assert TOKEN not in done.stderr
            assert PASSWORD not in done.stderr
            return done.stdout

        run("db", "migrate")
        yield run


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


@pytest.mark.parametrize("option", ["--conn-json", "--conn-uri"])
def test_what_is_added_is_stored_and_found_good(cli, kernel, proxy, option):
    conn_id = f"kernel_{option[-4:].strip('-')}"
    text = {"--conn-json": as_json, "--conn-uri": as_uri}[option](kernel, proxy)
    passed = len(proxy.passed)

    cli("connections", "add", conn_id, option, text)

    output = cli("connections", "get", conn_id, "--output", "json")
    shown = json.loads(output[output.index("[{") :])[0]  # Airflow 3.2 writes log lines there, too
    assert (shown["conn_type"], shown["password"]) == ("kernel", TOKEN)
    assert shown["extra_dejson"]["project"] == "reports"
    assert "Connection success!" in cli("connections", "test", conn_id)
    assert len(proxy.passed) == passed + 1


def test_the_fields_one_by_one(cli, kernel):
    fields = ["--conn-type", "kernel", "--conn-host", kernel.base_url, "--conn-password", TOKEN]
    cli("connections", "add", "kernel_fields", *fields, "--conn-extra", '{"project": "reports"}')
    assert "Connection success!" in cli("connections", "test", "kernel_fields")


def test_the_environment(cli, kernel, proxy):
    passed = len(proxy.passed)
    said = cli("connections", "test", "kernel_env", AIRFLOW_CONN_KERNEL_ENV=as_uri(kernel, proxy))
    assert "Connection success!" in said
    assert len(proxy.passed) == passed + 1


def test_a_bad_connection_fails_with_what_to_do(cli, kernel, proxy):
    bad = as_json(kernel, proxy, password="sk_wrong_token")
    said = cli("connections", "test", "kernel_env", AIRFLOW_CONN_KERNEL_ENV=bad)
    assert "Connection failed!" in said
    assert "Make a token at https://dashboard.onkernel.com/api-keys" in said
    assert "sk_wrong_token" not in said


def test_a_dag_runs_without_a_scheduler_through_a_connection_that_is_stored(cli):
    """The trigger runs in a process of its own, where connections are read in another way."""
    with KernelEmulator([EXAMPLES / "apps/bookshop/main.py"]) as emulator:
        cli("connections", "add", "kernel_default", "--conn-json", emulator.connection_json)
        said = cli("dags", "test", "example_kernel_decorator")
    assert "[app] 2/2 Travel" in said
    assert "Returned value was: The Little Mountain, vol. 2223" in said
    assert re.search(r"Marking run .* successful", said)
