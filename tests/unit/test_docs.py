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
from docs import pages

pytestmark = pytest.mark.one_airflow

OURS = airflow_provider_kernel.__name__
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


def test_the_readme_is_on_the_site_as_a_whole():
    readme = (pages.ROOT / "README.md").read_text()
    shown = "".join(pages.readme_pages(readme).values())

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", re.sub(r"\]\(\S+?\)", "", text))

    assert words(shown) == words(readme)


def test_comments_of_a_readmes_code_are_no_headings():
    made = pages.readme_pages("# A\n\n## B\n\n```\n# c\n## d\n```\n\n### E\n")

    assert made == {"front": "# A\n\n", "b": "# B\n\n```\n# c\n## d\n```\n\n## E\n"}


def test_a_readmes_links_lead_to_the_sites_pages():
    made = pages.readme_pages(
        "# A\n\n## Install\n\n## B c: `D`\n\n[a](#a) [b](#b-c-d) [e](#e)\n\n### E\n\n"
        "[one](example_dags/one.py) [all](example_dags) [guide](docs/guide.md#x) [c](CHANGELOG.md)\n"
        "![form](docs/images/form.png) [l](LICENSE) [web](https://example.org/x#y)\n"
    )

    assert re.findall(r"\]\((\S+)\)", made["b-c-d"]) == [
        "/index.md#a",
        "/made/readme/b-c-d.md#b-c-d",
        "/made/readme/b-c-d.md#e",
        "/made/examples.md#onepy",
        "/made/examples.md",
        "/guide.md#x",
        "/changelog.md",
        "/images/form.png",
        "/../LICENSE",
        "https://example.org/x#y",
    ]


def test_links_and_decorators_have_pages_as_soon_as_the_provider_info_names_them():
    info = {
        "task-decorators": [{"class-name": "some.decorators.kernel.kernel_task", "name": "kernel"}],
        "extra-links": ["some.links.kernel.One", "some.links.kernel.Two"],
    }
    made = pages.reference_pages(info)

    assert re.findall(r":: (\S+)", made["decorators"]) == ["some.decorators.kernel"]
    assert re.findall(r":: (\S+)", made["links"]) == ["some.links.kernel"]
