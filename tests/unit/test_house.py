"""The rules of the house: what may import what, and what loading a Dag file may cost."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_airflow

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


#: The folders that a folder may import, besides itself. ``metrics`` and ``task_instance`` are modules.
BELOW = {
    "api": set(),
    "lifecycle": {"api"},
    "capacity": {"api"},
    "watch": {"api"},
    "transport": {"api", "lifecycle"},
    "hooks": {"api", "lifecycle", "transport", "metrics"},
    "links": {"api", "hooks"},
    "triggers": {"api", "lifecycle", "capacity", "watch", "transport", "hooks", "task_instance"},
    "operators": {"api", "lifecycle", "capacity", "hooks", "links", "triggers", "metrics", "task_instance"},
    "sensors": {"api", "lifecycle", "hooks", "links", "operators", "triggers", "metrics", "task_instance"},
    "decorators": {"api", "operators"},
    "emulator": {"api"},
    "testing": {"api", "emulator"},
}
PURE = ["api", "lifecycle", "capacity", "watch"]
everywhere = pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda path: ".".join(path.relative_to(PACKAGE).with_suffix("").parts),
)


def imports_of_ours(path: Path) -> set[str]:
    """The modules of this package that a file imports anywhere: in functions and under TYPE_CHECKING, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {
                name if (PACKAGE.parent / f"{name.replace('.', '/')}.py").exists() else node.module
                for name in names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith(OURS)}
    return {name.removeprefix(f"{OURS}.") for name in found if name != OURS}


def test_every_folder_has_its_place_in_the_house():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(BELOW)


@everywhere
def test_imports_go_down_only(path):
    folder = path.relative_to(PACKAGE).parts[0]
    if folder in BELOW:
        used = {name.partition(".")[0] for name in imports_of_ours(path)}
        assert used <= BELOW[folder] | {folder}


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): imports_of_ours(
            path
        )
        for path in PACKAGE.rglob("*.py")
    }
    while leaves := [name for name, used in graph.items() if not used & graph.keys()]:
        for name in leaves:
            del graph[name]
    assert graph == {}


@pytest.mark.parametrize(
    "path",
    [path for folder in PURE for path in modules(folder)],
    ids=lambda path: f"{path.parent.name}.{path.stem}",
)
def test_the_pure_folders_need_nothing_but_the_standard_library(path):
    for name in imports_of(path, at_load=False):
        top = name.partition(".")[0]
        assert top in sys.stdlib_module_names or name.startswith(OURS), name


@everywhere
def test_no_module_is_longer_than_600_lines(path):
    assert len(path.read_text().splitlines()) <= 600


#: What a Dag file loads of this package: what checks the arguments.
LOADED_BY_A_DAG = {
    "api.arguments",
    "api.payload",
    "api.payload_mark",
    "decorators.kernel",
    "links.kernel",
    "operators.arguments",
    "operators.deferral",
    "operators.interruptible",
    "operators.kernel",
    "operators.mapped",
    "operators.rendering",
    "sensors.kernel",
}


def loaded_by(code: str, after: str) -> tuple[set[str], set[str]]:
    """What code loads in a process that has run ``after``: modules of this package, and other top-level names."""
    code = (
        f"import sys\n{after}\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(done.stdout.splitlines()[-1].split())
    ours = {name for name in names if name.startswith(f"{OURS}.")}
    others = {name.partition(".")[0] for name in names - ours} - sys.stdlib_module_names - {OURS}
    folders = {f"{OURS}.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")}
    return {name.removeprefix(f"{OURS}.") for name in ours - folders}, others


def test_a_dag_file_loads_what_checks_arguments_and_nothing_that_runs():
    plain = """
from airflow.providers.common.compat.sdk import DAG, BaseOperator, BaseOperatorLink, BaseSensorOperator, task
with DAG("plain"):
    task(task_id="plain")(lambda: {})()
"""
    ours = f"""
from {OURS}.decorators.kernel import kernel_task
from {OURS}.operators.kernel import KernelInvokeOperator
from {OURS}.sensors.kernel import KernelInvocationSensor
names = dict(app_name="app", action_name="action")
with DAG("ours"):
    start = KernelInvokeOperator(task_id="start", payload={{"number": 1}}, wait_for_completion=False, **names)
    KernelInvocationSensor(task_id="wait", invocation_id=start.output)
    KernelInvocationSensor(task_id="wait_for_another", invocation_id="inv1")
    KernelInvokeOperator.partial(task_id="mapped", **names).expand(payload=["{{{{ ds }}}}", 2])
    kernel_task(task_id="decorated", **names)(lambda: {{}})()
"""
    loaded, others = loaded_by(ours, after=plain)
    assert loaded == LOADED_BY_A_DAG
    assert others <= {"airflow"}


def test_discovery_of_the_provider_loads_no_hook():
    discovery = """
manager = ProvidersManager()
assert "kernel" in manager.hooks
assert manager.taskflow_decorators["kernel"]
assert any("Kernel" in name for name in manager.extra_links_class_names)
"""
    loaded, others = loaded_by(discovery, after="from airflow.providers_manager import ProvidersManager")
    assert loaded - {"get_provider_info", "hooks.connection_form"} <= LOADED_BY_A_DAG
    assert not others & {"requests", "aiohttp", "tenacity"}


def test_tests_marked_no_airflow_can_be_imported_without_airflow():
    # The older Airflows do not see these tests. What they import while they run, `make versions` sees.
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    env = {**os.environ, "TESTS_WITHOUT_AIRFLOW": "1"}
    done = subprocess.run(
        [*command, "tests/unit", "tests/integration"], cwd=REPOSITORY, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert "test_wait_machine.py" in done.stdout
