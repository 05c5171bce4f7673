"""TypeScript and JavaScript apps in the emulator, under a real Node.js and with the official SDK of npm."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import kernel
import psutil
import pytest

from airflow_provider_kernel.testing import KernelEmulator, KernelEmulatorError
from tests.integration.conftest import APP, client_of, heed_ctrl_c
from tests.integration.node_apps import install, make_folder

pytestmark = pytest.mark.no_airflow

APPS = Path(__file__).parent / "apps-ts"
LATEST = {"app_name": "ts", "version": "latest"}
SDK = "@onkernel/sdk@0.84.0"
IMPORT = 'import { Kernel } from "@onkernel/sdk"; const kernel = new Kernel();'
REQUIRE = 'const { Kernel } = require("@onkernel/sdk"); const kernel = new Kernel();'
DEFINE = 'const app = kernel.app("shop"); app.action("act", async (context) => 1);'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the app ``ts``, the SDK and tsx."""
    folder = make_folder(tmp_path_factory.mktemp("ts"), install(SDK, "tsx@4"))
    shutil.copytree(APPS, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture
def sdk_alone(tmp_path):
    """A folder with the SDK and without tsx."""
    return make_folder(tmp_path, install(SDK))


@pytest.fixture
def node_22(monkeypatch):
    """Put a Node.js that can remove types on the PATH."""
    monkeypatch.setenv("PATH", str(install("node@22") / ".bin"), prepend=os.pathsep)


@pytest.fixture(scope="module")
def emulator(folder):
    """An emulator of a TypeScript app and a Python app."""
    with KernelEmulator([folder / "app.ts", APP], heartbeat=0.5) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(emulator):
    with client_of(emulator) as client:
        yield client


@pytest.fixture
def start(folder, start_emulator):
    """Start a further emulator of the app ``ts``."""
    return lambda **options: start_emulator([folder / "app.ts"], **options)


def invoke(client: kernel.Kernel, action: str, payload=None):
    """Invoke an action synchronously."""
    given = {} if payload is None else {"payload": json.dumps(payload)}
    return client.invocations.create(**LATEST, action_name=action, **given)


def log_of(client: kernel.Kernel, invocation_id: str) -> list[str]:
    """Return the lines of an invocation that has ended."""
    return [event.message for event in client.invocations.follow(invocation_id) if event.event == "log"]


def spawn(client: kernel.Kernel) -> tuple[str, list[int]]:
    """Invoke the action that starts processes. Return the invocation's id and the pids, which the action prints."""
    reply = client.invocations.create(**LATEST, action_name="spawn", payload='{"seconds": 600}', async_=True)
    with client.invocations.follow(reply.id) as stream:
        line = next(event.message for event in stream if event.event == "log")
    return reply.id, [int(pid) for pid in line.split()[1:]]


def starting_error(file: Path, **options) -> str:
    """Start an emulator that cannot start; return the last line that it prints."""
    with pytest.raises(KernelEmulatorError) as caught:
        KernelEmulator([file], **options).start()
    return str(caught.value).splitlines()[-1].removeprefix("Kernel emulator: ")


def apps_of(file: Path) -> list[str]:
    with KernelEmulator([file]) as emulator:
        return [app.app_name for app in client_of(emulator).apps.list()]


@pytest.mark.parametrize(
    ("action", "payload", "output"),
    [
        ("echo", {"text": "é \u2028 \x00 \U0001f600", "n": [1, 2.5, None, True]}, None),
        ("echo", "x" * 3_000_000, None),
        ("double", {"n": 21}, 42),
    ],
)
def test_output_is_what_the_action_returns(client, action, payload, output):
    reply = invoke(client, action, payload)

    assert reply.status == "succeeded"
    assert json.loads(reply.output) == (payload if output is None else output)


def test_output_is_null_when_the_action_returns_nothing(client):
    assert invoke(client, "echo").output == "null"


def test_action_gets_its_context_and_the_sdk_reaches_the_emulator(client):
    reply = invoke(client, "context")

    assert json.loads(reply.output) == {"invocation_id": reply.id, "status": "running"}


def test_python_and_typescript_apps_run_in_one_emulator(client):
    assert [app.app_name for app in client.apps.list()] == ["ts", "tests"]
    reply = client.invocations.create(
        app_name="tests", version="latest", action_name="echo", payload='"python"'
    )
    assert (reply.output, invoke(client, "echo", "typescript").output) == ('"python"', '"typescript"')


def test_start_fails_when_files_of_both_languages_define_the_same_app(tmp_path, folder):
    python = tmp_path / "app.py"
    python.write_text(
        "import kernel\napp = kernel.App('ts')\n@app.action('act')\ndef act(context): return 1\n"
    )

    with pytest.raises(KernelEmulatorError, match=r"app\.ts and .*app\.py both define the app 'ts'"):
        KernelEmulator([folder / "app.ts", python]).start()


def test_official_client_of_node_invokes_retrieves_and_follows(emulator, folder):
    environment = {**os.environ, **emulator.env()}
    done = subprocess.run(
        ["node", "client.mjs"], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("events")[-1] == "succeeded"
    assert found == {"apps": ["ts", "tests"], "synchronous": '{"n":1}', "retrieved": '{"n":1}'}


def test_surroundings_are_those_of_a_python_app_and_the_path_is_kernels(folder, start_emulator, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "terminal")
    monkeypatch.setenv("NODE_OPTIONS", "--no-warnings")
    emulator = start_emulator([folder / "app.ts"], env={"GIVEN": "1"})

    found = json.loads(invoke(client_of(emulator), "surroundings").output)

    assert found["argv"][1:] == ["/boot-node/app.ts"]
    assert (found["cwd"], found["stdin"]) == (os.getcwd(), "")
    assert found["env"]["GIVEN"] == "1"
    assert found["env"]["KERNEL_BASE_URL"] == emulator.base_url
    assert found["env"].keys().isdisjoint({"AWS_SECRET_ACCESS_KEY", "NODE_OPTIONS", "TSX_TSCONFIG_PATH"})


def test_lines_appear_while_the_action_runs(client, tmp_path):
    file = tmp_path / "go"
    payload = json.dumps({"file": str(file)})
    reply = client.invocations.create(**LATEST, action_name="wait", payload=payload, async_=True)
    lines = []
    with client.invocations.follow(reply.id) as stream:
        for event in stream:
            if event.event == "log":
                lines.append(event.message)
            if lines == ["waiting for true", "to stderr"]:
                assert client.invocations.retrieve(reply.id).status == "running"
                file.touch()

    assert lines == ["waiting for true", "to stderr", "no newline"]
    assert client.invocations.retrieve(reply.id).output == '"waited"'


def test_error_is_the_output_and_the_log_has_the_stack_of_the_app_alone(client):
    reply = invoke(client, "fail", {"message": "no\nlamp"})

    assert (reply.status, reply.status_reason) == ("failed", "The action raised an exception.")
    assert reply.output == "Refused: no\nlamp"
    log = log_of(client, reply.id)
    assert log[:2] == ["Refused: no", "lamp"]
    assert "Caused by: RangeError: the cause" in log
    stack = [line for line in log if line.startswith("    at ")]
    assert stack
    assert all("app.ts:" in line or "node:internal" in line for line in stack)
    assert "sk_secret" not in "".join(log)


def test_error_is_the_output_when_it_is_no_error_object(client):
    reply = invoke(client, "fail_with_text")

    assert (reply.output, log_of(client, reply.id)) == ("just text", ["just text"])


def test_error_text_is_cut_after_64_kib(client):
    assert len(invoke(client, "fail", {"message": "x" * 100_000}).output) == 65_536


@pytest.mark.parametrize(
    ("action", "payload", "reason"),
    [
        ("exit", {"code": 0}, "The process ended before the action returned, with exit status 0."),
        ("exit", {"code": 3}, "The process ended before the action returned, with exit status 3."),
        ("kill", None, "The process ended before the action returned, by signal SIGKILL."),
        ("reject", None, "The process ended before the action returned, with exit status 1."),
        ("never", None, "The action cannot return: nothing is left that it could wait for."),
        ("unjson", "function", "The action returned a value that is not JSON: it is of type function."),
        ("unjson", "bigint", "not JSON: Do not know how to serialize a BigInt."),
        ("unjson", "circle", "not JSON: Converting circular structure to JSON."),
        ("unjson", "throws", "not JSON: Unexpected token"),
        ("big", {"n": 17 * 2**20}, "The action returned more than 16 MiB."),
    ],
)
def test_crash_fails_the_invocation_and_nothing_else(client, action, payload, reason):
    reply = invoke(client, action, payload)

    assert (reply.status, reply.output) == ("failed", None)
    assert reason in reply.status_reason
    assert invoke(client, "echo", 1).status == "succeeded"


def test_log_is_complete_when_the_action_ends_the_process(client):
    reply = invoke(client, "exit", {"code": 0})

    assert log_of(client, reply.id) == [str(line) * 50_000 for line in range(10)]


def test_log_has_the_error_that_nobody_handles(client):
    assert "Error: nobody handles it" in log_of(client, invoke(client, "reject").id)


def test_output_of_megabytes_is_complete(client):
    assert json.loads(invoke(client, "big", {"n": 8_000_000}).output) == "x" * 8_000_000


def test_invocation_ends_with_the_action_whatever_the_action_has_left(client):
    reply = invoke(client.with_options(timeout=20), "leave")

    assert (reply.status, reply.output) == ("succeeded", '"left"')
    assert log_of(client, reply.id) == ["leaving"]


def test_result_is_received_when_the_action_ends_and_replaces_its_streams(client):
    assert invoke(client, "mute").output == '"mute"'


def test_no_process_is_left_when_the_action_returns(client, alive):
    reply = invoke(client, "spawn", {"seconds": 0})

    assert reply.status == "succeeded"
    assert len(json.loads(reply.output)) == 4
    assert alive(json.loads(reply.output)) == []


def test_no_process_is_left_when_an_invocation_is_cancelled(client, alive):
    invocation_id, pids = spawn(client)
    assert alive(pids) == pids

    client.invocations.update(invocation_id, status="failed")

    assert alive(pids) == []


def test_no_process_is_left_when_an_invocation_reaches_its_time_limit(start, alive):
    client = client_of(start(sync_timeout=10))

    reply = invoke(client, "spawn", {"seconds": 600})

    assert (reply.status, reply.output) == ("failed", None)
    assert "10 seconds" in reply.status_reason
    assert alive(int(pid) for pid in log_of(client, reply.id)[0].split()[1:]) == []


@pytest.mark.parametrize("victim", ["server", "forkserver"])
def test_no_process_is_left_when_server_or_forkserver_is_killed(start, alive, until, victim):
    emulator = start()
    _, pids = spawn(client_of(emulator))
    server = psutil.Process(emulator.pid)
    pids += [process.pid for process in server.children(recursive=True)]

    (server if victim == "server" else server.children()[0]).kill()

    until(lambda: alive([*pids, emulator.pid]) == [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_when_the_start_is_stopped_during_the_import(folder, alive, until, number):
    file = folder / f"slow{number}.mjs"
    file.write_text("console.error(process.pid); await new Promise((done) => setTimeout(done, 600_000));")
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

    assert (process.returncode, errors) == (-9 if number == signal.SIGKILL else 0, "")
    until(lambda: not alive([importing]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("app.ts", f"{IMPORT}\nimport 'missing';", ": Error: Cannot find package 'missing' imported from "),
        ("app.ts", f"{IMPORT}\nconst broken = ;", ', line 2: SyntaxError: Unexpected ";".'),
        ("app.mjs", f"{IMPORT}\n\nconst broken = ;", ", line 3: SyntaxError: Unexpected token ';'."),
        ("app.cjs", f"{REQUIRE}\nconst broken = ;", ", line 2: SyntaxError: Unexpected token ';'."),
        (
            "app.ts",
            "interface A {}\nfunction f() {\n  throw new TypeError('two\\nlines');\n}\nf();",
            ", line 3: TypeError: two lines.",
        ),
        ("app.ts", "const n: number = 1;\nJSON.parse('{');", ", line 2: SyntaxError: Expected property name"),
        ("app.ts", "throw 'text'", ": text."),
        (
            "app.ts",
            f"{IMPORT}\nprocess.exit(7);",
            ": importing it ended the process, with exit status 7.",
        ),
        (
            "app.ts",
            f"{IMPORT}\nawait new Promise(() => {{}});",
            ": the import cannot end: nothing is left that it could wait for.",
        ),
        ("app.ts", IMPORT, ": the file defines no app. Add const app = kernel.app('name')."),
        (
            "app.ts",
            f"{IMPORT}\nkernel.app('shop');",
            ": the app 'shop' has no action. Add app.action('name', ",
        ),
        (
            "app.ts",
            f"{IMPORT}\n{DEFINE}".replace("shop", " "),
            ": ' ' cannot be the name of an app or an action.",
        ),
        ("app.ts", f"{IMPORT}\n{DEFINE}\nkernel.app('shop');", ", line 3: Error: two apps are named 'shop'."),
        ("missing.ts", None, ": no such file."),
    ],
)
def test_app_file_is_refused_with_one_sentence_when_it_cannot_be_served(
    tmp_path, folder, name, text, message
):
    file = make_folder(tmp_path, folder / "node_modules") / name
    if text is not None:
        file.write_text(text)

    assert starting_error(file).startswith(f"{file}{message}")


def test_app_file_error_has_both_places_when_an_imported_module_throws(tmp_path, folder):
    make_folder(tmp_path, folder / "node_modules")
    file, helper = tmp_path / "app.ts", tmp_path / "helper.ts"
    file.write_text(f"{IMPORT}\nimport {{ f }} from './helper.ts';\nf();\n")
    helper.write_text("export function f() {\n  throw new Error('no good');\n}\n")

    assert starting_error(file) == f"{file}, line 3: Error: no good ({helper}, line 2)."


def test_app_file_is_refused_when_node_is_missing(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    error = f"{folder / 'app.ts'}: there is no program node on the PATH. Install Node.js 22.18 or newer."
    assert starting_error(folder / "app.ts") == error


@pytest.mark.parametrize(
    ("package", "command"),
    [
        (None, "npm install @onkernel/sdk"),
        ("{}", "npm install @onkernel/sdk"),
        ('{"dependencies": {"@onkernel/sdk": "*"}}', "npm install"),
    ],
)
def test_app_file_is_refused_with_the_command_when_the_sdk_is_missing(tmp_path, folder, package, command):
    file = tmp_path / "app.mjs"
    file.write_text(f"{IMPORT}{DEFINE}")
    if package is not None:
        (tmp_path / "package.json").write_text(package)

    assert starting_error(file) == f"{file}: @onkernel/sdk is not installed. Run {command} in {tmp_path}."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app.js", IMPORT),
        ("app.mjs", IMPORT),
        ("app.cjs", REQUIRE),
        ("app.mts", f"{IMPORT} const n: number = 1;"),
        ("app.cts", f"{IMPORT} const n: number = 1;"),
    ],
)
def test_both_kinds_of_modules_are_imported(tmp_path, folder, name, text):
    file = make_folder(tmp_path, folder / "node_modules") / name
    file.write_text(text + DEFINE)

    assert apps_of(file) == ["shop"]


def test_typescript_is_imported_by_node_alone_when_there_is_no_tsx(sdk_alone, node_22):
    file = sdk_alone / "app.ts"
    file.write_text(f"{IMPORT}\nconst n: number = 1;\n{DEFINE}")

    assert apps_of(file) == ["shop"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("enum Kind { A }", ", line 2: SyntaxError: TypeScript enum is not supported in strip-only mode"),
        ("import './helper';", ": Error: Cannot find module "),
    ],
)
def test_tsx_is_advised_when_node_alone_cannot_import_the_file(sdk_alone, node_22, text, error):
    file = sdk_alone / "app.ts"
    file.write_text(f"{IMPORT}\n{text}\n{DEFINE}")
    (sdk_alone / "helper.ts").write_text("export const n = 1;")

    found = starting_error(file)

    assert found.startswith(f"{file}{error}")
    assert found.endswith(f". tsx can import it: run npm install tsx in {sdk_alone}.")


def test_tsx_or_a_newer_node_is_advised_when_node_knows_no_types(sdk_alone, node_22):
    file = sdk_alone / "app.ts"
    file.write_text(f"{IMPORT}\n{DEFINE}")

    found = starting_error(file, env={"NODE_OPTIONS": "--no-experimental-strip-types"})

    advice = f"Run npm install tsx in {sdk_alone}, or install Node.js 22.18 or newer."
    assert found.endswith(f" cannot import TypeScript. {advice}")


def test_tsx_of_the_path_imports_the_file_when_the_app_has_none(sdk_alone, folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder / "node_modules" / ".bin"), prepend=os.pathsep)
    file = sdk_alone / "app.ts"
    file.write_text(f"{IMPORT}\nenum Kind {{ A }}\n{DEFINE}")

    assert apps_of(file) == ["shop"]


def test_invocation_fails_when_the_file_can_no_longer_be_imported(tmp_path, folder):
    file = make_folder(tmp_path, folder / "node_modules") / "app.ts"
    file.write_text(f"{IMPORT}\n{DEFINE}")
    call = {"app_name": "shop", "action_name": "act", "version": "latest"}
    with KernelEmulator([file]) as emulator:
        client = client_of(emulator)
        assert client.invocations.create(**call).status == "succeeded"
        file.write_text(f"{IMPORT}\nthrow new Error('broken meanwhile');")
        broken = client.invocations.create(**call)
        file.write_text(f"{IMPORT}\n{DEFINE}".replace('"act"', '"other"'))
        gone = client.invocations.create(**call)
        file.write_text("await new Promise(() => {});")
        stuck = client.invocations.create(**call)

    assert broken.status_reason == "The app file can no longer be imported, line 2: Error: broken meanwhile."
    assert gone.status_reason == "The app file no longer defines the action. Start the emulator again."
    assert stuck.status_reason.startswith("The app file can no longer be imported: the import cannot end")


def test_path_aliases_of_the_apps_tsconfig_are_known(tmp_path, folder):
    file = make_folder(tmp_path, folder / "node_modules") / "app.ts"
    (tmp_path / "tsconfig.json").write_text('{"compilerOptions": {"paths": {"@/*": ["./*"]}}}')
    (tmp_path / "helper.ts").write_text("export const n = 1;")
    file.write_text(f"{IMPORT}\nimport {{ n }} from '@/helper';\nconsole.error(n);\n{DEFINE}")

    assert apps_of(file) == ["shop"]
