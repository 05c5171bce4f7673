"""What registries of Airflow's providers, Astronomer's above all, ask of one."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from airflow_provider_kernel import __version__
from airflow_provider_kernel.get_provider_info import get_provider_info
from docs.pages import KINDS, modules_of

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
INFO = get_provider_info()
MODULES = [name for kind in KINDS for name in modules_of(INFO, kind)]
CLASSES = [
    *INFO.get("extra-links", []),
    *(each["class-name"] for each in INFO.get("task-decorators", [])),
    *(each["hook-class-name"] for each in INFO["connection-types"]),
]


def test_the_provider_info_has_the_required_fields():
    assert {"package-name", "name", "description", "versions"} <= set(INFO)
    assert INFO["package-name"] == PROJECT["name"]
    assert INFO["versions"] == [__version__]


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_in_the_provider_info_exists(name):
    module, _, attribute = name.rpartition(".")

    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_docstring_and_is_in_the_readme(module):
    assert (importlib.import_module(module).__doc__ or "").strip()
    assert module.partition(".")[2] in README


@pytest.mark.parametrize("kind", ["operators", "hooks", "sensors"])
def test_the_modules_of_a_kind_lie_in_the_package_of_its_name(kind):
    for module in modules_of(INFO, kind):
        assert module.startswith(f"airflow_provider_kernel.{kind}."), module


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "example_dags").glob("*.py")), ids=lambda path: path.stem
)
def test_every_example_has_a_docstring_and_is_in_the_documentation(path):
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""

    assert len(doc) > 100
    assert path.name in (REPOSITORY / "docs/run-an-action.md").read_text()
    assert f'"{path.stem}"' in path.read_text(), "the Dag has another name than its file"


@pytest.mark.parametrize("asked", ["## Install", "## Connect", "## Modules", "## Versions", "## Development"])
def test_the_readme_has_the_sections_that_a_registry_requires(asked):
    assert f"\n{asked}\n" in README


def test_dependencies_have_a_lower_bound_and_exclude_no_later_minor_version():
    for needed in PROJECT["dependencies"]:
        assert re.search(r">=\d+\.\d+", needed), needed
        assert all(re.fullmatch(r"<\d+", bound) for bound in re.findall(r"<[^,]+", needed)), needed
        assert "==" not in needed, needed
