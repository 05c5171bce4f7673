"""The guide, followed to the letter in an empty folder, and the README's examples."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import airflow
import pytest

pytestmark = pytest.mark.one_airflow

REPOSITORY = Path(__file__).parents[2]
#: What the emulator of the guide is waited for, in the place of a second terminal.
STARTED = """ > emulator.log 2>&1 &
trap "kill $!" EXIT
timeout 60 sh -c 'until grep -q "For Airflow" emulator.log; do sleep 0.2; done'
"""
#: What the README says of its Dag and its app without showing how.
README_DAG = """
from dags.prices import dag


def test_the_first_dag_of_the_readme_runs(kernel_emulator):
    assert dag.test().state == "success"


def test_the_readmes_recipe_with_a_hook_lists_failures(kernel_emulator):
    from recipe import failures_of_the_last_day

    assert failures_of_the_last_day.function() == []
    from airflow_provider_kernel.hooks.kernel import KernelHook

    with KernelHook() as kernel:
        bad = kernel.invoke("shop", "price", {})
        kernel.wait_for_invocation(bad.id, timeout=60)
    assert failures_of_the_last_day.function() == [bad.id]
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of a page's blocks of code."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (REPOSITORY / page).read_text(), re.DOTALL | re.MULTILINE)
    if airflow.__version__.startswith("2."):
        old = "from airflow.providers.common.compat.sdk import"
        found = [(language, text.replace("from airflow.sdk import", old)) for language, text in found]
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_files(page: str, folder: Path) -> list[tuple[str, str]]:
    """Write the blocks that begin with the name of a file; return the others."""
    others = []
    for language, text in blocks(page):
        if named := re.match(r"(?:#|<!--) ([\w./]+\.\w+)", text):
            write(folder / named[1], text)
        else:
            others.append((language, text))
    return others


def follow(script: str, folder: Path) -> str:
    """Run a script as somebody would who has this environment activated; return what it said."""
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{script}"], cwd=folder, capture_output=True, text=True, timeout=900
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.fixture(autouse=True)
def shell(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)


@pytest.mark.browser
def test_the_steps_of_the_guide_work(tmp_path):
    others = write_files("docs/guide.md", tmp_path)
    assert {language for language, _ in others} == {"sh", "console"}, "a block of the guide that nobody runs"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = "\n".join(text for language, text in others if language == "sh").replace("8484", port)
    script, started = re.subn(r"(kernel\.emulator) (.*)\n", rf"\1 --port={port} \2{STARTED}", script)
    assert started == 1

    said = follow(script, tmp_path)

    [invocation_id] = set(re.findall(r"Kernel accepted invocation (\w+) of prices/read", said))
    assert re.search(r"\[app\] .*found £12\.50", said)
    assert f"Kernel invocation {invocation_id} succeeded." in said
    assert re.search(r"Marking run .* successful", said)
    assert "Returned value was: The lamp costs 12.50" in said
    assert "3 passed" in said
    assert f"http://127.0.0.1:{port}" in (tmp_path / "emulator.log").read_text()


def test_the_readmes_app_dag_tests_and_recipe_work_together(tmp_path):
    python = [text for language, text in write_files("README.md", tmp_path) if language == "python"]
    (dag,) = [text for text in python if 'DAG("prices"' in text]
    (app,) = [text for text in python if 'kernel.App("shop")' in text]
    (recipe,) = [text for text in python if "def failures_of_the_last_day" in text]
    # Airflow 2 asks for a start.
    start = dag.replace('"@daily"):', '"@daily", start_date=datetime(2026, 1, 1)) as dag:')
    write(tmp_path / "dags" / "prices.py", f"from datetime import datetime\n{start}")
    write(tmp_path / "shop.py", app)
    write(tmp_path / "recipe.py", recipe)
    write(tmp_path / "test_dag.py", README_DAG)

    said = follow(
        "export AIRFLOW_HOME=$PWD/airflow AIRFLOW__CORE__DAGS_FOLDER=$PWD/dags AIRFLOW__CORE__LOAD_EXAMPLES=False\n"
        "airflow db migrate\npython -m pytest",
        tmp_path,
    )

    assert "3 passed" in said
