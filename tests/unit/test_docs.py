"""The documentation has everything in it: what users can name is in the reference, and every parameter is explained."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

import airflow_provider_kernel
from airflow_provider_kernel.api.errors import KernelInvocationError
from airflow_provider_kernel.get_provider_info import get_provider_info
from airflow_provider_kernel.operators.kernel import KernelInvokeOperator
from airflow_provider_kernel.sensors.kernel import KernelInvocationSensor
from docs import pages
from tests.documented import blocks

pytestmark = pytest.mark.one_airflow

OURS = airflow_provider_kernel.__name__
TEXTS = [pages.ROOT / "README.md", pages.ROOT / "SECURITY.md", *sorted(pages.DOCS.glob("*.md"))]
REFERENCE = [path.read_text() for path in (pages.DOCS / "reference").glob("*.md")]
#: What Airflow's users name in a Dag, a connection or a test.
PACKAGES = ("decorators", "hooks", "links", "operators", "sensors", "triggers")


def public_modules() -> list[str]:
    """Return the modules that the reference shows."""
    made = pages.reference_pages(get_provider_info()).values()
    shown = {name for page in (*REFERENCE, *made) for name in re.findall(rf"auto\w+:: ({OURS}[\w.]*)", page)}
    return sorted({re.sub(r"\.[A-Z]\w*$", "", name) for name in shown})


def classes_of(module: str) -> list[type]:
    """Return the public classes that a module defines."""
    found = inspect.getmembers(importlib.import_module(module), inspect.isclass)
    return [kind for name, kind in found if kind.__module__ == module and not name.startswith("_")]


def is_of_airflow(kind: type) -> bool:
    """Tell whether Airflow has a base of a class: an operator, a trigger, a hook, a link."""
    return any(base.__module__.partition(".")[0] == "airflow" for base in kind.__mro__)


def all_modules() -> list[str]:
    """Return all modules of the packages that Airflow's users name."""
    found = []
    for package in PACKAGES:
        folder = pages.ROOT / OURS / package
        found += [f"{OURS}.{package}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]
    return found


@pytest.mark.parametrize("module", all_modules())
def test_every_public_class_is_in_the_provider_info(module):
    for_airflow = [kind.__name__ for kind in classes_of(module) if is_of_airflow(kind)]

    assert not for_airflow or module in public_modules(), for_airflow


def test_docstrings_in_the_reference_are_complete():
    files = {inspect.getsourcefile(importlib.import_module(name)) for name in public_modules()}
    command = [Path(sys.executable).with_name("pydoclint"), "--quiet", *sorted(files)]

    done = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True)

    assert done.returncode in (0, 1), done.stderr  # 1: there are violations
    # It skips private functions, but not the methods of private classes.
    assert [
        line for line in (done.stdout + done.stderr).splitlines() if ": DOC" in line and "`_" not in line
    ] == []


@pytest.mark.parametrize("module", public_modules())
def test_every_parameter_of_a_constructor_is_explained(module):
    # The linter looks into docstrings that have fields; it lets one that has none at all pass.
    for kind in classes_of(module):
        if "__init__" not in vars(kind) or issubclass(kind, (Enum, KernelInvocationError)):
            continue
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
        explained = set(re.findall(r":param (\w+):", kind.__doc__ or ""))
        named = {each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
        assert named == explained, kind


def test_links_to_files_lead_to_the_sites_pages():
    made = pages.with_links_of_the_site(
        "[r](../README.md) [one](../example_dags/example_kernel_invoke.py) [all](example_dags) [guide](docs/guide.md#x)\n"
        "[c](CHANGELOG.md) ![form](docs/images/form.png) [l](LICENSE) [page](guide.md#y) [web](https://example.org/x#y)\n"
        "[here](#z)\n"
    )

    assert re.findall(r"\]\((\S+)\)", made) == [
        "/index.md",
        "/made/examples.md#example_kernel_invokepy",
        "/made/examples.md",
        "/guide.md#x",
        "/changelog.md",
        "/images/form.png",
        "/../LICENSE",
        "guide.md#y",
        "https://example.org/x#y",
        "#z",
    ]


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.name)
def test_the_files_to_which_a_page_links_exist(page):
    # The site's build checks the pages' anchors, too; but not the README as it is on a code forge.
    for link in re.findall(r"\]\((?!\w+:|#)([^)\s#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_the_readme_can_be_read_in_minutes():
    assert len((pages.ROOT / "README.md").read_text().splitlines()) <= 135


@pytest.mark.parametrize(
    ("page", "kind", "left_out"),
    [
        ("run-an-action.md", KernelInvokeOperator, set()),
        # Those of every sensor are Airflow's, but for three that have a meaning of their own.
        ("wait-for-invocation.md", KernelInvocationSensor, {"poke_interval", "timeout", "soft_fail"}),
    ],
)
def test_the_table_of_parameters_is_that_of_the_signature(page, kind, left_out):
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (pages.DOCS / page).read_text(), re.MULTILINE))
    parameters = {
        name: each.default
        for name, each in inspect.signature(kind.__init__).parameters.items()
        if each.kind is each.KEYWORD_ONLY
    }
    assert set(rows) - left_out == set(parameters)
    for name, default in parameters.items():
        if default not in (inspect.Parameter.empty, None):
            assert rows[name].strip('`"').startswith(str(default).removesuffix(".0")), name


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)
def test_no_command_has_a_comment_which_zsh_takes_for_arguments(page):
    commands = [text for language, text in blocks(page.read_text()) if language == "sh"]
    assert not re.findall(r"^.*(?:^|\s)#\s.*$", "".join(commands), re.MULTILINE)


def test_troubleshooting_quotes_what_the_provider_says():
    said = "".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in (pages.ROOT / OURS).rglob("*.py")
    )
    page = (pages.DOCS / "troubleshooting.md").read_text()
    for heading in re.findall(r"^\*\*(.*?)\*\*", page, re.MULTILINE | re.DOTALL):
        for quoted in re.findall(r'"([^"]+)"', " ".join(heading.split())):
            for part in filter(None, (each.strip(" .") for each in quoted.split("…"))):
                assert part in said, part


def test_links_and_decorators_have_pages_as_soon_as_the_provider_info_names_them():
    info = {
        "task-decorators": [{"class-name": "some.decorators.kernel.kernel_task", "name": "kernel"}],
        "extra-links": ["some.links.kernel.One", "some.links.kernel.Two"],
    }
    made = pages.reference_pages(info)

    assert re.findall(r":: (\S+)", made["decorators"]) == ["some.decorators.kernel"]
    assert re.findall(r":: (\S+)", made["links"]) == ["some.links.kernel"]
