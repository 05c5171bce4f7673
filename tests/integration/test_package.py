"""The package as users get it: what is in it, and that it works in an environment that has nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from airflow_provider_kernel import __version__

pytestmark = [pytest.mark.package, pytest.mark.one_airflow]

REPOSITORY = Path(__file__).parents[2]
STEM = f"airflow_provider_kernel-{__version__}"
UV = REPOSITORY / ".venv" / "bin" / "uv"


def run(*command: object, cwd: Path = REPOSITORY, **env: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "UV_CACHE_DIR": str(REPOSITORY / ".venv" / "cache"), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The folder with the source distribution and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--python", sys.executable, "--out-dir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> zipfile.ZipFile:
    with zipfile.ZipFile(built / f"{STEM}-py3-none-any.whl") as wheel:
        yield wheel


def text_in(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"{STEM}.dist-info/{name}").decode()


def files_in(folder: str) -> set[str]:
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_contains_package_examples_licence_and_types_only(wheel):
    package = files_in("airflow_provider_kernel")
    examples = {f"airflow_provider_kernel/{name}" for name in files_in("example_dags")}
    about = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}

    assert set(wheel.namelist()) == package | examples | {f"{STEM}.dist-info/{name}" for name in about}
    assert "airflow_provider_kernel/py.typed" in package
    assert text_in(wheel, "licenses/LICENSE") == (REPOSITORY / "LICENSE").read_text()


def test_the_metadata_has_what_registries_ask_for(wheel):
    metadata = message_from_string(text_in(wheel, "METADATA"))

    assert metadata["Name"] == "airflow-provider-kernel"
    assert re.fullmatch(r"\d+\.\d+\.\d+", metadata["Version"])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (REPOSITORY / "README.md").read_text()
    assert {
        "Framework :: Apache Airflow",
        "Framework :: Apache Airflow :: Provider",
        "Typing :: Typed",
    } <= set(metadata.get_all("Classifier"))


def test_the_changelog_has_a_section_for_the_version_that_is_built():
    assert re.search(rf"^## \[?{re.escape(__version__)}\b", (REPOSITORY / "CHANGELOG.md").read_text(), re.M)


def test_the_source_distribution_contains_tests_and_docs(built):
    with tarfile.open(built / f"{STEM}.tar.gz") as sdist:
        names = {name.removeprefix(f"{STEM}/") for name in sdist.getnames()}
    tracked = set(run("git", "-c", "safe.directory=*", "ls-files").splitlines()) | {"PKG-INFO"}

    assert {
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "docs/conf.py",
        "example_dags/.airflowignore",
    } <= names
    assert names <= tracked
    assert {
        name for name in tracked if name.startswith(("airflow_", "docs/", "example_", "tests/", "dev/"))
    } <= names


def test_the_example_dags_parse_with_the_wheel_alone(built, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    wheel = built / f"{STEM}-py3-none-any.whl"
    # An older Airflow needs the packages of its time, which are here.
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(run(UV, "pip", "freeze", "--python", sys.executable, "--exclude-editable"))
    into = ("--quiet", "--python", python, "--constraints", constraints)
    run(UV, "pip", "install", *into, "apache-airflow", wheel)
    # Not from the repository's folder, whose package would be imported instead.
    script = """if True:
        import sys
        from importlib.util import find_spec
        from pathlib import Path
        import airflow
        import airflow_provider_kernel
        from airflow.models.dagbag import DagBag
        from airflow.providers_manager import ProvidersManager
        from airflow_provider_kernel.hooks.kernel import KernelHook

        dags, version, environment, *extras = sys.argv[1:]
        assert airflow_provider_kernel.__file__.startswith(environment), airflow_provider_kernel.__file__
        bag = DagBag(dags)
        # There is no AssetWatcher before Airflow 3.
        newer = {"example_kernel_asset_watcher.py"} if airflow.__version__.startswith("2.") else set()
        assert {Path(file).name for file in bag.import_errors} == newer, bag.import_errors
        assert "example_kernel_invoke" in bag.dags
        providers = ProvidersManager()
        assert providers.providers["airflow-provider-kernel"].version == version
        assert providers.hooks["kernel"].hook_name == "Kernel"
        KernelHook().get_conn()
        assert [name for name in extras if find_spec(name)] == []
    """
    run(
        python, "-c", script, REPOSITORY / "example_dags", __version__, tmp_path / "venv", "kernel", "pytest",
        cwd=tmp_path,
        AIRFLOW_HOME=str(tmp_path / "airflow"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW_CONN_KERNEL_DEFAULT='{"conn_type": "kernel", "password": "sk_test"}',
    )  # fmt: skip
