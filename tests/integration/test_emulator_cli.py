"""The emulator's command line: start, errors at the start, app files, environment variables, pytest fixtures."""

import json
import multiprocessing
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import kernel
import psutil
import pytest

import airflow_provider_kernel.emulator.__main__ as command_line
from airflow_provider_kernel.emulator.loader import AppFileError, load_apps
from airflow_provider_kernel.testing import KernelEmulator, KernelEmulatorError
from tests.integration.conftest import client_of, heed_ctrl_c

pytestmark = pytest.mark.no_airflow

FORK = multiprocessing.get_context("fork")
APP = """
import kernel
app = kernel.App({name!r})
@app.action("act")
def act(ctx):
    return {result}
"""
#: State that an app file may leave behind and that forked processes inherit.
UNTIDY = """
import signal, socket, threading
socket.setdefaulttimeout(0.000001)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
#: What an app file may do when it is imported.
PREPARED = """
import itertools, kernel, sys
from random import random
count = itertools.count()
client = kernel.Kernel()
sys.stdout.write("imported, and no newline")
"""


def write(folder, name="app.py", text=None, *, app="shop", result="1"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(APP.format(name=app, result=result) if text is None else text)
    return file


def invoke_once(*arguments, api_key):
    """Start an emulator with these arguments and invoke the action of its app. Return its URL and the response."""
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[-1]
        try:
            client = kernel.Kernel(base_url=url, api_key=api_key, max_retries=0)
            return url, client.invocations.create(app_name="shop", action_name="act", version="latest")
        finally:
            process.terminate()


def run_to_exit(*arguments):
    """Run the command line until it exits. Return exit status and standard error."""
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == ""
    return done.returncode, done.stderr


def invoke(emulator, app, action="act"):
    reply = client_of(emulator).invocations.create(app_name=app, action_name=action, version="latest")
    assert reply.status == "succeeded", reply
    return json.loads(reply.output)


def loading_error(file):
    """Load an app file in a process of its own, as a forkserver does. Return the error."""
    receiving, sending = FORK.Pipe(duplex=False)
    FORK.Process(target=_load, args=(file, sending)).start()
    sending.close()
    return receiving.recv()


def _load(file, sending):
    try:
        sending.send(f"no error: {load_apps(file)}")
    except AppFileError as error:
        sending.send(str(error))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import kernel\n\nimport missing\n", ", line 3: ModuleNotFoundError: No module named 'missing'"),
        ("import kernel\ndef broken(:\n", ", line 2: SyntaxError: invalid syntax"),
        ("def f():\n    raise ValueError('two\\nlines')\nf()\n", ", line 2: ValueError: two lines"),
        ("import sys\nsys.exit('enough')\n", ", line 2: SystemExit: enough"),
        ("x = 1\n", ": the file defines no app."),
        ("import kernel\nkernel.App('shop')\n", ": the app 'shop' has no action."),
        (APP.format(name=" ", result=1), ": ' ' cannot be the name of an app or an action."),
        (APP.format(name=1, result=1), ": 1 cannot be the name of an app or an action."),
        (
            APP.format(name="shop", result=1).replace('"act"', '""'),
            ": '' cannot be the name of an app or an action.",
        ),
        ("import kernel\nkernel.App('a')\nkernel.App('a')\n", ", line 3: ValueError: two apps are named 'a'"),
        (None, ": no such file"),
    ],
)
def test_app_file_is_refused_with_one_sentence_when_it_cannot_be_served(tmp_path, text, message):
    file = tmp_path / "app.py"
    if text is not None:
        file.write_text(text)

    assert loading_error(file).startswith(f"{file}{message}")


def test_app_file_is_refused_when_it_is_a_folder(tmp_path):
    assert loading_error(tmp_path) == f"{tmp_path}: this is a folder, not an app file"


def test_app_file_error_has_both_places_when_an_imported_module_raises(tmp_path):
    helper = write(tmp_path, "helper.py", "\n\n1 / 0\n")
    file = write(tmp_path, text="import kernel\nimport helper\n")

    assert loading_error(file) == f"{file}, line 2: ZeroDivisionError: division by zero ({helper}, line 3)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import kernel\n1 / 0\n", ", line 2: ZeroDivisionError: division by zero"),
        ("import os\nos._exit(7)\n", ": importing it ended the process, with exit status 7"),
    ],
)
def test_start_prints_one_line_and_exits_with_2_when_an_import_fails(tmp_path, text, message):
    file = write(tmp_path, text=text)

    assert run_to_exit(file, "--port=0") == (2, f"Kernel emulator: {file}{message}.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seconds", [0.2, 600])
def test_start_can_be_stopped_during_the_import(tmp_path, number, seconds):
    file = write(
        tmp_path, text=f"import os, sys, time\nprint(os.getpid(), file=sys.stderr)\ntime.sleep({seconds})"
    )
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", file]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        importing = int(process.stderr.readline())
        process.send_signal(number)
        errors = process.stderr.read()

    assert (process.returncode, errors) == (0, "")
    assert not psutil.pid_exists(importing)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_can_be_stopped_while_an_exec_runs_as_that_of_a_dataclass(tmp_path, number):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'uvicorn':\n"
        f"            exec('os.kill(os.getpid(), {number:d})')\n"
        "sys.meta_path.insert(0, Finder)"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", write(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        preexec_fn=heed_ctrl_c,
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_start_prints_the_install_command_when_packages_are_missing(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "REQUIRED_PACKAGES", ("json", "no_such_module"))

    assert command_line.main(["app.py"]) == 2
    assert capsys.readouterr().err == (
        "Kernel emulator: required packages are missing: no_such_module. Run: pip install 'airflow-provider-kernel[emulator]'\n"
    )


def test_start_fails_when_two_files_define_the_same_app(tmp_path):
    one, two = write(tmp_path, "one.py"), write(tmp_path, "two.py")

    status, error = run_to_exit(one, two, "--port=0")

    assert (status, error) == (2, f"Kernel emulator: {one} and {two} both define the app 'shop'.\n")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_start_fails_when_the_port_is_in_use(tmp_path, host):
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as taken:
        port = taken.getsockname()[1]
        status, error = run_to_exit(write(tmp_path), f"--port={port}", f"--host={host}")

    assert status == 2
    assert error == (
        f"Kernel emulator: port {port} of {host} is in use: stop what listens there, or choose another with --port.\n"
    )


def test_error_of_an_app_file_comes_before_that_of_the_port(tmp_path):
    file = write(tmp_path, text="import os\nraise ValueError(os.environ['KERNEL_BASE_URL'])\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, error = run_to_exit(file, f"--port={port}")

    assert (status, error) == (
        2,
        f"Kernel emulator: {file}, line 2: ValueError: http://127.0.0.1:{port}.\n",
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--max-concurrency=0", "'0' is not a positive whole number"),
        ("--max-concurrency=1.5", "'1.5' is not a positive whole number"),
        ("--refuse=everything", "invalid choice: 'everything'"),
        ("--heartbeat=nan", "'nan' is not a positive number"),
        ("--sync-timeout=x", "'x' is not a positive number"),
        ("--port=x", "'x' is not a port"),
        ("--port=70000", "'70000' is not a port"),
        ("--port=-1", "'-1' is not a port"),
        ("--api-key=", "not a token"),
        ("--api-key=sk_é", "not a token"),
    ],
)
def test_option_is_refused_when_its_value_is_invalid(option, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(["app.py", option])

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_start_fails_when_the_host_does_not_resolve(capsys):
    assert command_line.main(["app.py", "--host=no.such.host.", "--port=0"]) == 2
    assert capsys.readouterr().err.startswith("Kernel emulator: cannot listen on no.such.host. port 0: ")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "0"])
def test_host_beyond_loopback_requires_an_api_key(host, capsys):
    assert command_line.main(["app.py", f"--host={host}", "--port=0"]) == 2
    assert capsys.readouterr().err == (
        f"Kernel emulator: --host {host} lets other machines run the apps: set --api-key to the token that they "
        "must send.\n"
    )


@pytest.mark.parametrize(
    ("host", "resolved", "listens"), [("localhost", "10.9.8.7", False), ("build.example", "127.0.0.1", True)]
)
def test_host_is_judged_by_the_address_that_it_resolves_to(host, resolved, listens, monkeypatch):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (resolved, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    if listens:
        command_line._listen(host, 0, has_key=False).close()
    else:
        with pytest.raises(command_line.OptionError, match="--api-key"):
            command_line._listen(host, 0, has_key=False)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_printed_url_reaches_the_emulator(tmp_path, host, address):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        if ":" in host:
            pytest.skip("this machine has no IPv6")
    url, reply = invoke_once(f"--host={host}", "--api-key=sk_right", write(tmp_path), api_key="sk_right")

    # The emulator listens on ::1 if localhost resolves to it first.
    printed = url.rpartition(":")[0].removeprefix("http://")
    assert printed == address or (host, printed) == ("localhost", "[::1]")
    assert reply.output == "1"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--env==secret", "--env must be NAME=VALUE or NAME; a name has letters, digits and _ only"),
        (
            "--env=NO_SUCH_ONE",
            "--env NO_SUCH_ONE: the variable is not set; set it, or write --env NO_SUCH_ONE=VALUE",
        ),
        ("--env-file=no.such.env", "--env-file no.such.env: No such file or directory"),
    ],
)
def test_start_fails_when_a_variable_is_invalid(option, message, capsys):
    assert command_line.main(["app.py", "--port=0", option]) == 2
    assert capsys.readouterr().err == f"Kernel emulator: {message}.\n"


def test_start_fails_when_an_env_file_has_an_invalid_line(tmp_path, capsys):
    file = write(tmp_path, ".env", "A=1\nsecret")

    assert command_line.main(["app.py", "--port=0", f"--env-file={file}"]) == 2
    assert capsys.readouterr().err == (
        f"Kernel emulator: --env-file {file}: line 2 is not NAME=VALUE; put a value with quotes or $ in single quotes.\n"
    )


@pytest.fixture
def environment_app(tmp_path, monkeypatch):
    """An app file whose action returns its environment. The terminal's environment has secrets."""
    for name in (
        "AIRFLOW_CONN_DB",
        "AIRFLOW__CORE__FERNET_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "PASSED",
        "KERNEL_API_KEY",
    ):
        monkeypatch.setenv(name, "terminal")
    monkeypatch.setenv("LC_TIME", "C")
    return write(tmp_path, text="import os\n" + APP.format(name="shop", result="dict(os.environ)"))


def test_app_gets_the_given_variables_and_none_of_the_terminals_secrets(environment_app, tmp_path):
    files = [
        write(tmp_path, "one.env", "A=file\nB=file\nC='$file'\nKERNEL_BASE_URL=http://real.example\n"),
        write(tmp_path, "two.env", b"\xef\xbb\xbfB=second\r\nD=second\r\n".decode()),
    ]
    options = [
        *(f"--env-file={file}" for file in files),
        "--env=A=x=y",
        "--env=PASSED",
        "--env=KERNEL_API_KEY",
    ]
    url, reply = invoke_once(*options, environment_app, api_key="x")
    found = json.loads(reply.output)

    assert {name: found.pop(name) for name in ("A", "B", "C", "D", "PASSED")} == {
        "A": "x=y", "B": "second", "C": "$file", "D": "second", "PASSED": "terminal"
    }  # fmt: skip
    assert {name: value for name, value in found.items() if name.startswith("KERNEL_")} == {
        "KERNEL_BASE_URL": url,
        "KERNEL_API_KEY": "sk_emulator",
    }
    assert found["LC_TIME"] == "C"
    assert "terminal" not in found.values()


def test_env_of_kernel_emulator_is_on_no_command_line(environment_app, tmp_path):
    file = write(tmp_path, ".env", "A=file\nB=file\n")
    with KernelEmulator([environment_app], env={"A": "secret", "C": ""}, env_file=file) as emulator:
        found = invoke(emulator, "shop")
        processes = [psutil.Process(emulator.pid), *psutil.Process(emulator.pid).children(recursive=True)]
        command_lines = []
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # the one of the invocation is ending
                command_lines.append(" ".join(process.cmdline()))

    assert {name: found[name] for name in "ABC"} == {"A": "secret", "B": "file", "C": ""}
    assert "terminal" not in found.values()
    assert any("emulator.forkserver" in line for line in command_lines)
    assert "secret" not in "".join(command_lines)


def test_exit_with_stdin_ends_the_emulator_when_stdin_is_no_pipe(tmp_path):
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", "--exit-with-stdin"]
    done = subprocess.run([*command, write(tmp_path)], stdin=subprocess.DEVNULL, timeout=30)

    assert done.returncode == 0


def test_start_prints_url_apps_and_settings_of_clients(tmp_path):
    files = [write(tmp_path, "one.py", app="one"), write(tmp_path, "two.py", app="two")]
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(6)]
        process.terminate()
    url = lines[0].removeprefix("Kernel emulator on ").strip()

    assert url.startswith("http://127.0.0.1:")
    assert lines[1:4] == [
        "one: act\n",
        "two: act\n",
        f"For the SDK: KERNEL_BASE_URL={url} KERNEL_API_KEY=sk_emulator\n",
    ]
    name, _, connection = lines[4].removeprefix("For Airflow: ").partition("=")
    assert name == "AIRFLOW_CONN_KERNEL_DEFAULT"
    assert json.loads(shlex.split(connection)[0]) == {
        "conn_type": "kernel",
        "host": url,
        "password": "sk_emulator",
        "extra": {"dashboard_url": url + "/#/invocations/{invocation_id}"},
    }
    assert lines[5] == f"In a browser: {url}/\n"
    assert process.returncode == 0


def test_start_takes_less_than_1500_ms_besides_the_import_of_the_app(tmp_path):
    file = write(tmp_path)

    def seconds_beside_the_import():
        started = time.monotonic()
        subprocess.run([sys.executable, str(file)], check=True)
        imported = time.monotonic()
        with KernelEmulator([file]):
            return time.monotonic() - imported - (imported - started)

    # A busy machine can only make a measurement slower, so one fast start is enough.
    assert any(seconds_beside_the_import() < 1.5 for _ in range(3))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """An emulator of several app files."""
    folder = tmp_path_factory.mktemp("apps")
    files = []
    for name in ("one", "two"):
        write(folder / name, "helper.py", f"NAME = {name!r}")
        text = "import helper\n" + APP.format(name=name, result="[helper.NAME, __name__]")
        files.append(write(folder / name, "main.py", text))
    for name, result in {
        "state": "[next(count), random()]",
        "client": "len(list(client.apps.list()))",
    }.items():
        files.append(write(folder, f"{name}.py", PREPARED + APP.format(name=name, result=result)))
    with KernelEmulator(files) as emulator:
        yield emulator


def test_files_and_modules_do_not_collide_when_they_have_the_same_name(emulator):
    assert invoke(emulator, "one") == ["one", "main"]
    assert invoke(emulator, "two") == ["two", "main"]


def test_sdk_client_reaches_the_emulator_when_created_during_the_import(emulator):
    assert invoke(emulator, "client") == 4


def test_log_has_no_text_that_was_printed_during_the_import(emulator):
    invocations = client_of(emulator).invocations

    reply = invocations.create(app_name="state", action_name="act", version="latest", async_=True)

    assert {event.event for event in invocations.follow(reply.id)} == {"invocation_state"}


def test_invocation_succeeds_when_the_app_file_leaves_threads_and_settings_behind(tmp_path):
    file = write(tmp_path, text=UNTIDY + APP.format(name="shop", result="1"))
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--port=0", file]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        url = process.stdout.readline().split()[-1]
        try:
            client = kernel.Kernel(base_url=url, api_key="x", max_retries=0, timeout=10)
            reply = client.invocations.create(app_name="shop", action_name="act", version="latest")
        finally:
            process.terminate()
        errors = process.stderr.read()

    assert reply.status == "succeeded", reply
    assert errors.startswith(f"Kernel emulator: {file} starts threads when it is imported.")
    assert (
        len(errors.splitlines()) == 1
    )  # Python 3.12 itself warns of a fork beside threads; the emulator hides that.


def test_invocations_share_no_state(emulator):
    one, two = invoke(emulator, "state"), invoke(emulator, "state")

    assert one[0] == two[0] == 0
    assert one[1] != two[1]


def test_kernel_emulator_raises_the_output_when_the_start_fails(tmp_path):
    with pytest.raises(KernelEmulatorError, match="line 1: NameError: name 'nonsense' is not defined"):
        KernelEmulator([write(tmp_path, text="nonsense")]).start()


def test_kernel_emulator_raises_when_the_start_takes_too_long(tmp_path):
    file = write(tmp_path, text="import time\ntime.sleep(600)")

    with pytest.raises(KernelEmulatorError, match=r"not ready after 0\.1 seconds"):
        KernelEmulator([file], start_timeout=0.1).start()


def test_kernel_emulator_keeps_the_first_process_when_started_twice(emulator):
    pid = emulator.pid

    with pytest.raises(KernelEmulatorError, match="already started"):
        emulator.start()

    assert emulator.pid == pid


def test_command_line_has_neither_the_api_key_nor_the_value_of_a_variable(tmp_path):
    with KernelEmulator([write(tmp_path)], api_key="sk_right", env={"PASSWORD": "hunter2"}) as emulator:
        command = " ".join(psutil.Process(emulator.pid).cmdline())
        assert "--env=PASSWORD" in command
        assert "sk_right" not in command
        assert "hunter2" not in command
        assert [app.app_name for app in client_of(emulator).apps.list()] == ["shop"]
