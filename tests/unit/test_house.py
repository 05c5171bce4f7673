"""The rules of the house: what may import what, and what loading a Dag file may cost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "airflow_provider_kernel"
OURS = "airflow_provider_kernel"


def imports_of(path: Path, *, at_load: bool) -> set[str]:
    """The modules that a file imports; with ``at_load``, only those outside functions and TYPE_CHECKING."""

    def walk(node: ast.AST):
        for child in ast.iter_child_nodes(node):
            if at_load and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield child.module or ""
            yield from walk(child)

    return set(walk(ast.parse(path.read_text())))


def modules(folder: str) -> list[Path]:
    found = sorted((PACKAGE / folder).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", modules("api"), ids=lambda path: path.stem)
def test_the_floor_needs_nothing_but_the_standard_library(path):
    for name in imports_of(path, at_load=False):
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or name.startswith(f"{OURS}.api"), name


@pytest.mark.parametrize("path", modules("emulator"), ids=lambda path: path.stem)
def test_the_emulator_stands_on_the_floor_only(path):
    ours = {name for name in imports_of(path, at_load=False) if name.startswith(OURS)}
    assert all(name.startswith((f"{OURS}.api", f"{OURS}.emulator")) or name == OURS for name in ours), ours


@pytest.mark.parametrize("folder", ["hooks", "operators", "triggers", "decorators"])
def test_the_provider_does_not_know_the_emulator(folder):
    for path in modules(folder):
        assert not [name for name in imports_of(path, at_load=False) if "emulator" in name]


def test_loading_the_operator_loads_no_http_client():
    # A process of its own: this one has loaded everything already.
    code = (
        "import sys; from airflow.providers.common.compat.sdk import DAG, BaseOperator, task\n"
        "before = set(sys.modules)\n"
        f"import {OURS}.operators.kernel, {OURS}.decorators.kernel\n"
        "print(sorted(({'requests', 'aiohttp', 'httpx', 'kernel', 'starlette', 'wtforms'} & set(sys.modules)) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines()[-1] == "[]"


def test_what_is_marked_no_airflow_can_be_imported_without_it():
    # The older Airflows do not see these tests. What they import while they run, `make versions` sees.
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    env = {**os.environ, "TESTS_WITHOUT_AIRFLOW": "1"}
    done = subprocess.run(
        [*command, "tests/unit", "tests/integration"], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "test_wait_machine.py" in done.stdout
