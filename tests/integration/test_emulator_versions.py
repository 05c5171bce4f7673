"""Versions of an app side by side, the deployments that serve them, and the account's limits."""

import json
import re

import httpx
import kernel
import pytest

from airflow_provider_kernel.emulator import __main__ as command_line
from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests.integration.conftest import client_of
from tests.integration.emulator_process import emulator_process
from tests.integration.node_apps import install, make_folder

pytestmark = pytest.mark.no_airflow

APP = """
import kernel, os
app = kernel.App({app!r})
@app.action("act")
def act(ctx):
    return {result!r}
@app.action({only!r})
def only(ctx):
    return os.environ.get("COLOUR")
"""
NODE_APP = """
import { Kernel } from "@onkernel/sdk";
const app = new Kernel({ apiKey: "sk_x" }).app("shop");
app.action("act", async (context) => "node");
"""
LATEST = "it is the version of a file that is given without --version"


def write(folder, name="shop.py", *, app="shop", result="plain", only="only"):
    file = folder / name
    file.write_text(APP.format(app=app, result=result, only=only))
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of three versions of ``shop``, and of two versions of ``books`` that have labels."""
    folder = tmp_path_factory.mktemp("versions")
    return {
        "plain": write(folder),
        "2": write(folder, "shop_v2.py", result="two", only="only_two"),
        "1.0 beta": write(folder, "shop_beta.py", result="beta"),
        "books": write(folder, "books.py", app="books", result="books"),
    }


@pytest.fixture(scope="module")
def emulator(files, tmp_path_factory):
    variables = tmp_path_factory.mktemp("env") / ".env"
    variables.write_text("SIZE=secret_size")
    with KernelEmulator(
        [files["plain"]],
        versions={"2": [files["2"], files["books"]], "1.0 beta": files["1.0 beta"]},
        env={"COLOUR": "secret_colour"},
        env_file=variables,
    ) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def client(emulator):
    with client_of(emulator) as client:
        yield client


def invoke(client, version, app="shop", action="act"):
    return client.invocations.create(app_name=app, action_name=action, version=version)


@pytest.mark.parametrize(
    ("version", "label", "result"),
    [
        ("latest", "emulator", "plain"),
        ("emulator", "emulator", "plain"),
        ("2", "2", "two"),
        ("1.0 beta", "1.0 beta", "beta"),
    ],
)
def test_invocation_runs_its_version_and_has_its_label(client, version, label, result):
    reply = invoke(client, version)

    assert json.loads(reply.output) == result
    assert client.invocations.retrieve(reply.id).version == label
    assert next(iter(client.invocations.list(app_name="shop", version=label))).id == reply.id
    [app] = client.apps.list(app_name="shop", version=label)
    listed = client.invocations.list(deployment_id=app.deployment, version=label)
    assert next(iter(listed)).id == reply.id


@pytest.mark.parametrize(
    ("app", "version", "action", "message"),
    [
        ("shop", "3", "act", "Version not found: 3 of the app shop, which has 2, 1.0 beta, emulator"),
        ("books", "emulator", "act", "Version not found: emulator of the app books, which has 2"),
        ("books", "latest", "act", f"Version not found: latest of the app books, which has 2; {LATEST}"),
        ("shop", "2", "only", "Action not found: only of the app shop (version 2), which has act, only_two"),
        ("books", "2", "nothing", "Action not found: nothing of the app books, which has act, only"),
    ],
)
def test_unknown_version_is_refused_with_the_known_ones(client, app, version, action, message):
    with pytest.raises(kernel.NotFoundError) as caught:
        invoke(client, version, app, action)

    assert caught.value.body["message"] == message


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["shop emulator", "shop 2", "books 2", "shop 1.0 beta"]),
        ({"app_name": "shop"}, ["shop emulator", "shop 2", "shop 1.0 beta"]),
        ({"version": "2"}, ["shop 2", "books 2"]),
        ({"version": "2", "app_name": "books"}, ["books 2"]),
        ({"version": "latest"}, []),
        ({"query": "OOK"}, ["books 2"]),
        ({"limit": 1}, ["shop emulator", "shop 2", "books 2", "shop 1.0 beta"]),
    ],
    ids=str,
)
def test_apps_are_listed_by_version(client, query, expected):
    assert [f"{app.app_name} {app.version}" for app in client.apps.list(**query)] == expected


def test_actions_are_those_of_the_version(client):
    [two] = client.apps.list(app_name="shop", version="2")

    assert [action.name for action in two.actions] == ["act", "only_two"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["shop.py", "shop_beta.py", "books.py", "shop_v2.py"]),
        ({"limit": 3}, ["shop.py", "shop_beta.py", "books.py", "shop_v2.py"]),
        ({"app_name": "shop"}, ["shop.py", "shop_beta.py", "shop_v2.py"]),
        ({"app_name": "shop", "app_version": "2"}, ["shop_v2.py"]),
        ({"app_name": "shop", "app_version": "latest"}, []),
        ({"query": "BOOK"}, ["books.py"]),
        ({"query": "nothing"}, []),
    ],
    ids=str,
)
def test_each_file_is_a_deployment(client, query, expected):
    found = list(client.deployments.list(**query))

    assert [it.entrypoint_rel_path for it in found] == expected
    assert {(it.status, it.region) for it in found} <= {("running", "aws.us-east-1a")}
    for deployment in found:
        assert client.deployments.retrieve(deployment.id).to_dict() == deployment.to_dict()
        assert deployment.created_at <= deployment.updated_at
    assert {it.id for it in client.deployments.list()} == {app.deployment for app in client.apps.list()}


def test_variables_are_listed_without_values_as_kernel_does_and_the_apps_have_them(client, emulator):
    assert json.loads(invoke(client, "2", action="only_two").output) == "secret_colour"
    for path in ("/apps", "/deployments"):
        reply = httpx.get(emulator.base_url + path, headers={"Authorization": "Bearer x"})
        assert [each["env_vars"] for each in reply.json()] == [{"COLOUR": "", "SIZE": ""}] * 4
        assert "secret" not in reply.text


def test_deployments_are_refused_as_kernel_refuses(client, emulator):
    with pytest.raises(kernel.NotFoundError, match="Deployment not found: unknown"):
        client.deployments.retrieve("unknown")
    with pytest.raises(kernel.BadRequestError, match="app_version requires app_name"):
        client.deployments.list(app_version="2")
    with pytest.raises(kernel.BadRequestError, match="limit must be"):
        client.deployments.list(limit=101)
    assert httpx.get(f"{emulator.base_url}/deployments").status_code == 401


@pytest.mark.parametrize(
    "call",
    [
        lambda client, deployment: client.deployments.create(file=b"zip", entrypoint_rel_path="app.py"),
        lambda client, deployment: client.deployments.delete(deployment),
        lambda client, deployment: client.deployments.follow(deployment),
        lambda client, deployment: client.organization.limits.update(
            default_project_max_concurrent_sessions=1
        ),
    ],
    ids=["create", "delete", "follow", "update limits"],
)
def test_what_is_not_served_says_so(client, call):
    deployment = next(iter(client.deployments.list())).id

    with pytest.raises(kernel.InternalServerError, match="The emulator does not serve") as caught:
        call(client, deployment)

    assert caught.value.status_code == 501


def test_limits_of_browsers_are_those_of_the_entitlements(client):
    limits = client.organization.limits.retrieve()
    entitlements = client.organization.entitlements.retrieve()

    assert limits.max_concurrent_sessions == entitlements.limits.max_concurrent_browsers
    assert (limits.concurrent_sessions_used, limits.concurrent_sessions_available) == (
        0,
        limits.max_concurrent_sessions,
    )
    assert limits.max_vaults == entitlements.limits.max_vaults == limits.vaults_used
    assert limits.min_health_check_interval_seconds == (
        entitlements.features.managed_auth.health_check_interval_min_seconds
    )


def test_terminal_names_the_version_if_an_app_has_several(files):
    books = files["books"]
    with emulator_process(
        "--env=COLOUR=secret", f"--version=2={files['2']}", files["plain"], books
    ) as emulator:
        invoke(emulator.client, "2")
        invoke(emulator.client, "latest")
        invoke(emulator.client, "latest", "books")
        emulator.client.apps.list()
        emulator.client.deployments.list()
        emulator.stop()

    assert emulator.printed.splitlines()[1:4] == [
        "shop (version emulator): act, only",
        "books: act, only",
        "shop (version 2): act, only_two",
    ]
    assert [re.search(r"\w+\.act.*?(?= from| in)", line)[0] for line in emulator.lines] == [
        "shop.act (version 2) started",
        "shop.act (version 2) succeeded",
        "shop.act (version emulator) started",
        "shop.act (version emulator) succeeded",
        "books.act started",
        "books.act succeeded",
    ]
    assert "secret" not in emulator.printed


def test_reload_replaces_the_version_of_the_changed_file_alone(tmp_path):
    plain, two = write(tmp_path), write(tmp_path, "shop_v2.py", result="two")
    with emulator_process("--reload", f"--version=2={two}", plain) as emulator:
        client = emulator.client
        before = {app.version: app.deployment for app in client.apps.list()}
        write(tmp_path, "shop_v2.py", result="new")
        assert [json.loads(invoke(client, version).output) for version in ("2", "latest")] == ["new", "plain"]
        after = {app.version: app.deployment for app in client.apps.list()}
        wait_until(
            lambda: client.deployments.retrieve(before["2"]).status == "stopped", 10, "the old one is stopped"
        )
        assert after["emulator"] == before["emulator"]
        assert after["2"] != before["2"]
        assert [(it.id, it.status) for it in client.deployments.list()] == [
            (after["2"], "running"),
            (after["emulator"], "running"),
            (before["2"], "stopped"),
        ]

        two.write_text("1 / 0")
        failed = next(iter(client.deployments.list()))
        assert (failed.status, failed.status_reason) == (
            "failed",
            f"{two}, line 1: ZeroDivisionError: division by zero.",
        )
        assert json.loads(invoke(client, "2").output) == "new"
        emulator.stop()

    note = f"{two} has changed and was read again: shop.act (version 2), shop.only (version 2)"
    assert note in emulator.lines


def test_python_and_javascript_files_are_versions_of_one_app(tmp_path):
    node = make_folder(tmp_path, install("@onkernel/sdk@0.84.0")) / "shop.mjs"
    node.write_text(NODE_APP)
    versions = {"js": node, "py": write(tmp_path)}
    with KernelEmulator([], versions=versions) as emulator, client_of(emulator) as client:
        outputs = [json.loads(invoke(client, version).output) for version in versions]

    assert outputs == ["node", "plain"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one file: APP or --version NAME=FILE"),
        (["--version=shop.py"], "'shop.py' is not NAME=FILE, such as 2=shop_v2.py"),
        (["--version==shop.py"], "'=shop.py' is not NAME=FILE"),
        (["--version=2="], "'2=' is not NAME=FILE"),
        (["--version= =shop.py"], "' ' is not a label: use printable text without spaces around it"),
        (["--version=2 =shop.py"], "'2 ' is not a label"),
        (["--version=2\n=shop.py"], r"'2\n' is not a label"),
        (
            ["--version=latest=shop.py"],
            "the label 'latest' is that of files without --version: give 'shop.py' as APP, or use another label",
        ),
        (["--version=emulator=shop.py"], "the label 'emulator' is that of files without --version"),
    ],
    ids=str,
)
def test_wrong_version_is_refused_with_what_to_write(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)

    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split("\n"))
