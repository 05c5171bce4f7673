"""App files that change while the emulator runs."""

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import kernel
import psutil
import pytest

from airflow_provider_kernel.emulator import app_files as module
from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.deployments import Deployments
from airflow_provider_kernel.emulator.engine import Engine
from dev.wait import wait_until
from tests.integration.emulator_process import emulator_process

pytestmark = pytest.mark.no_airflow

APP = """
import kernel
{head}
app = kernel.App({name!r})
@app.action("act")
def act(ctx):
    return {result}
"""


def write(folder, name="app.py", *, app="shop", head="", result="1", more=""):
    file = folder / name
    file.write_text(APP.format(name=app, head=head, result=result) + more)
    return file


def output(emulator, app="shop", action="act"):
    """Invoke an action and return its output, JSON text."""
    reply = emulator.invoke(action, app)
    assert reply.status == "succeeded", reply
    return reply.output


def forkservers(emulator):
    return [
        process
        for process in psutil.Process(emulator.process.pid).children()
        if process.status() != psutil.STATUS_ZOMBIE
    ]


def notes(emulator):
    """Return the lines about changed files."""
    return [line for line in emulator.lines if " changed" in line]


def test_next_invocation_runs_the_changed_file(tmp_path):
    file = write(tmp_path, result="1")
    with emulator_process("--reload", file) as emulator:
        assert output(emulator) == "1"
        before = emulator.client.apps.list().items[0]
        for result in "2345":  # within a second, and of the same size
            write(tmp_path, result=result)
            assert output(emulator) == result
        after = emulator.client.apps.list().items[0]
        wait_until(lambda: len(forkservers(emulator)) == 1, 10, "the forkservers from before have ended")
        emulator.stop()

        assert before.deployment != after.deployment
        assert notes(emulator) == [f"{file} has changed and was read again: shop.act"] * 4


def test_next_invocation_runs_the_changed_module_that_the_file_imports(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    helper = tmp_path / "package" / "helper.py"
    helper.write_text("VALUE = 1")
    file = write(tmp_path, head="from package.helper import VALUE", result="VALUE")
    with emulator_process("--reload", file) as emulator:
        assert output(emulator) == "1"
        helper.write_text("VALUE = 2")
        assert output(emulator) == "2"
        emulator.stop()

        assert notes(emulator) == [
            f"helper.py, which {file} imports, has changed and was read again: shop.act"
        ]


def test_nothing_is_read_again_when_nothing_has_changed(tmp_path):
    file = write(tmp_path, result="__import__('os').getppid()")
    (tmp_path / "other.py").write_text("")
    with emulator_process("--reload", file) as emulator:
        [serving] = forkservers(emulator)
        assert output(emulator)
        (tmp_path / "other.py").write_text("1 / 0")
        assert output(emulator)

        assert forkservers(emulator) == [serving]
        assert notes(emulator) == []


def test_actions_and_apps_come_and_go_with_the_file(tmp_path):
    file = write(tmp_path)
    with emulator_process("--reload", file) as emulator:
        write(tmp_path, more="@app.action('new')\ndef new(ctx):\n    return 'new'\n")
        assert output(emulator, action="new") == '"new"'
        write(tmp_path, app="books")
        assert [app.app_name for app in emulator.client.apps.list()] == ["books"]
        assert output(emulator, "books") == "1"
        with pytest.raises(kernel.NotFoundError, match="App not found: shop"):
            emulator.invoke()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"head": "1 / 0"}, "{file}, line 3: ZeroDivisionError: division by zero"),
        ({"head": "x ="}, "{file}, line 3: SyntaxError: invalid syntax"),
        ({"head": "__import__('os')._exit(3)"}, "{file}: importing it ended the process, with exit status 3"),
        ({"app": "other"}, "{other} and {file} both define the app 'other'"),
    ],
)
@pytest.mark.parametrize("amount", ["--reload", "--quiet"])
def test_version_from_before_stays_when_the_new_one_cannot_be_used(tmp_path, change, error, amount):
    file, other = write(tmp_path), write(tmp_path, "other.py", app="other")
    error = error.format(file=file, other=other)
    with emulator_process("--reload", amount, file, other) as emulator:
        write(tmp_path, **{"result": "2"} | change)
        assert [output(emulator), output(emulator), output(emulator, "other")] == ["1", "1", "1"]
        assert len(forkservers(emulator)) == 2
        write(tmp_path, result="3")
        assert output(emulator) == "3"
        emulator.stop()
        message = f"Kernel emulator: {file} has changed, but cannot be used: {error}. The version from before stays."

        assert notes(emulator)[0] == message
        assert len(notes(emulator)) == (1 if amount == "--quiet" else 2)


def test_file_is_read_again_when_the_module_is_there_that_was_missing(tmp_path):
    file = write(tmp_path)
    with emulator_process("--reload", file) as emulator:
        write(tmp_path, head="from helper import VALUE", result="VALUE")
        assert output(emulator) == "1"
        (tmp_path / "helper.py").write_text("VALUE =")
        assert output(emulator) == "1"
        (tmp_path / "helper.py").write_text("VALUE = 2")
        assert output(emulator) == "2"


def test_running_invocation_ends_with_the_old_version(tmp_path):
    go = tmp_path / "go"
    head = f"import pathlib, time\ngo = pathlib.Path({str(go)!r})\nVALUE = 1"
    slow = (
        "@app.action('slow')\ndef slow(ctx):\n    while not go.exists(): time.sleep(0.01)\n    return VALUE\n"
    )
    file = write(tmp_path, head=head, more=slow)
    with emulator_process("--reload", file) as emulator:
        [old] = forkservers(emulator)
        running = emulator.invoke("slow", async_=True)
        write(tmp_path, result="2")
        assert output(emulator) == "2"
        assert old in forkservers(emulator)
        assert emulator.client.invocations.retrieve(running.id).status == "running"

        go.touch()

        def reply():
            return emulator.client.invocations.retrieve(running.id)

        wait_until(lambda: reply().status == "succeeded", 10, "the old version has returned")
        assert reply().output == "1"
        wait_until(lambda: old not in forkservers(emulator), 10, "the old forkserver has ended")
        assert output(emulator) == "2"
        assert emulator.process.poll() is None


def test_running_invocation_of_the_old_version_can_be_ended(tmp_path):
    file = write(tmp_path, more="@app.action('slow')\ndef slow(ctx):\n    __import__('time').sleep(600)\n")
    with emulator_process("--reload", file) as emulator:
        running = emulator.invoke("slow", async_=True)
        write(tmp_path, result="2")
        assert output(emulator) == "2"

        assert emulator.client.invocations.update(running.id, status="failed").status == "failed"
        wait_until(lambda: len(forkservers(emulator)) == 1, 10, "the old forkserver has ended")


def test_many_submissions_at_once_read_the_file_once(tmp_path):
    imports = tmp_path / "imports"
    head = f"import time\nopen({str(imports)!r}, 'a').write('x')\ntime.sleep(0.3)"
    file = write(tmp_path, head=head)
    with emulator_process("--reload", file) as emulator, ThreadPoolExecutor(8) as pool:
        write(tmp_path, head=head, result="2")
        outputs = list(pool.map(lambda _: output(emulator), range(8)))

    assert outputs == ["2"] * 8
    assert imports.read_text() == "xx"


def test_emulator_answers_while_a_file_is_read_again(tmp_path):
    go = tmp_path / "go"
    file = write(tmp_path)
    with emulator_process("--reload", file) as emulator, ThreadPoolExecutor(1) as pool:
        head = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)"
        write(tmp_path, head=head, result="2")
        submission = pool.submit(output, emulator)
        wait_until(lambda: len(forkservers(emulator)) == 2, 10, "the file is read again")
        assert list(emulator.client.invocations.list()) == []
        assert not submission.done()
        go.touch()

        assert submission.result() == "2"


def test_emulator_stops_at_once_while_a_file_is_read_again(tmp_path):
    file = write(tmp_path)
    with emulator_process("--reload", file) as emulator, ThreadPoolExecutor(1) as pool:
        write(tmp_path, head="import time\ntime.sleep(600)")
        submission = pool.submit(emulator.invoke)
        wait_until(lambda: len(forkservers(emulator)) == 2, 10, "the file is read again")
        processes = forkservers(emulator)
        emulator.stop()

        assert isinstance(submission.exception(10), kernel.APIError)
        assert not [process for process in processes if process.is_running()]


def test_emulator_stops_when_the_process_of_the_new_version_ends(tmp_path):
    file = write(tmp_path)
    with emulator_process("--reload", file) as emulator:
        [old] = forkservers(emulator)
        write(tmp_path, result="2")
        assert output(emulator) == "2"
        wait_until(lambda: old not in forkservers(emulator), 10, "the old forkserver has ended")
        [new] = forkservers(emulator)
        os.kill(new.pid, signal.SIGKILL)
        emulator.wait_for(f"Kernel emulator: the process that serves {file} ended unexpectedly")

        assert emulator.process.wait(20) == 1


def test_import_that_takes_too_long_is_given_up(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(module, "RELOAD_SECONDS", 0.2)
    file = write(tmp_path)
    others = psutil.Process().children()
    deployments = Deployments(os.environ)
    served = deployments.start(file)
    try:
        deployments.wait()
        engine = Engine(deployments, max_concurrency=None, sync_timeout=60)
        console = Console(stream=sys.__stdout__)
        app_files = module.AppFiles(engine, console, reload=True)
        write(tmp_path, head="import time\ntime.sleep(600)")

        asyncio.run(app_files.refresh())
        console.close()

        assert [app.deployment for app in deployments.apps] == [served]
        assert len(psutil.Process().children()) == len(others) + 1
    finally:
        deployments.close()

    assert capfd.readouterr().err == (
        f"Kernel emulator: {file} has changed, but cannot be used: {file}: the import took more than 0.2 seconds. "
        "The version from before stays.\n"
    )


def test_change_is_told_once_without_reload(tmp_path):
    file = write(tmp_path)
    with emulator_process(file) as emulator:
        write(tmp_path, result="2")
        assert [output(emulator), output(emulator)] == ["1", "1"]
        write(tmp_path, result="33")
        assert [output(emulator), output(emulator)] == ["1", "1"]
        emulator.stop()

        told = f"{file} has changed: restart the emulator to use the change, or start it with --reload"
        assert notes(emulator) == [told, told]
