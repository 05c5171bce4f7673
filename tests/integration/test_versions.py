"""The operator and the versions of an app."""

from __future__ import annotations

import pytest

from airflow_provider_kernel.testing import KernelEmulator
from tests import faults
from tests.integration.task import Task, both_waits
from tests.integration.test_exactly_once import POST

APP = """
import kernel
app = kernel.App("shop")
@app.action("act")
def act(ctx, payload):
    return [{version!r}, payload]
"""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    """An emulator of two versions of the app ``shop``."""
    folder = tmp_path_factory.mktemp("versions")
    files = [folder / "shop.py", folder / "shop_v2.py"]
    for file, version in zip(files, ("plain", "two"), strict=True):
        file.write_text(APP.format(version=version))
    with KernelEmulator([files[0]], versions={"2": files[1]}) as emulator:
        yield emulator


ran = pytest.mark.parametrize(
    ("version", "label", "result"), [("latest", "emulator", "plain"), ("2", "2", "two")]
)


@ran
@both_waits
@pytest.mark.usefixtures("proxy")
def test_a_task_runs_its_version_and_tells_the_label(version, label, result, deferrable):
    task = Task("act", {"n": 1}, app_name="shop", version=version, deferrable=deferrable)

    assert task.run() == [result, {"n": 1}]
    assert task.xcom["app_version"] == label


@ran
def test_the_invocation_of_a_lost_reply_is_found_although_latest_is_listed_by_its_label(
    proxy, version, label, result
):
    task = Task("act", {"n": 1}, app_name="shop", version=version)
    proxy.on(POST, faults.drop_reply(), times=1)

    assert task.run() == [result, {"n": 1}]
    assert (task.found.version, len(proxy.accepted)) == (label, 1)


@ran
@pytest.mark.usefixtures("proxy")
def test_a_retry_reattaches_to_an_invocation_whose_version_is_listed_by_its_label(version, label, result):
    task = Task("act", {"n": 1}, app_name="shop", version=version, retries=1)
    task.run_until_it_dies_at("after:accepted")
    first = task.record["invocation_id"]

    assert task.retry().run() == [result, {"n": 1}]
    assert (task.invocation_id, task.xcom["app_version"]) == (first, label)
