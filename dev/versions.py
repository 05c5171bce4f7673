"""
Runs the tests that touch Airflow, but need no scheduler, on each other Airflow that is supported: ``make versions``.

The newest released Airflow is that of ``make test``, in ``.venv``. Each of the others has an environment of its own, on the
first Python of its list that is found here, so that all Pythons have their turn where there are several, and one is
enough where there is but one. What is the same on every Airflow, marked ``one_airflow``, is left to ``make test``, unless
tests are named. The tests that touch no Airflow, marked ``no_airflow``, run once on the newest of these Pythons, unless it
is that of ``make test``, which has run them; to import Airflow is an error there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from dev.checks import DISTRIBUTION, JOBS, Counts
from dev.processes import REPOSITORY, RunFolder


class Release(NamedTuple):
    """
    A release of Airflow.

    :param day: the last day of which packages are used beside it. What came out later was never tried with it, and
        does not all work with it.
    :param pythons: on which it runs, in the order of preference.
    :param also: what is to be installed beside it, and is not what would be taken anyhow.
    :param pre_releases: of a pre-release, its other distributions: uv takes pre-releases of those alone that it is told.
    :param suffix: of the environment's name.
    """

    day: str
    pythons: tuple[str, ...]
    also: tuple[str, ...] = ()
    pre_releases: tuple[str, ...] = ()
    suffix: str = ""


SUPPORTED = {
    # With the oldest common.compat that this provider is content with.
    "2.11.2": Release("2026-03-15", ("3.11", "3.12"), ("apache-airflow-providers-common-compat==1.13.0",)),
    # Which shows the fields of a connection's extra with this provider only.
    "3.0.6": Release("2025-08-30", ("3.12", "3.11"), ("apache-airflow-providers-fab",)),
    "3.1.8": Release("2026-03-12", ("3.13", "3.12", "3.11")),
    "3.2.2": Release("2026-05-30", ("3.12", "3.13", "3.11")),
    # In the place of 3.4.0, which is not out.
    "3.4.0b2": Release(
        "2026-10-25",
        ("3.14", "3.13", "3.12", "3.11"),
        pre_releases=("apache-airflow-core==3.4.0b2", "apache-airflow-task-sdk==1.4.0b2"),
    ),
}
SUITES = ("tests/unit", "tests/integration")
#: Tests of what the emulator replies and bears, and of Chromium and Node.js, which are the same on every Python.
ONCE = (
    "tests/integration/openapi",
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            "browsers",
            "browser_controls",
            "browser_live_view",
            "browser_scripts",
            "emulator_load",
            "emulator_node",
            "emulator_page",
        )
    ),
)
#: How many environments are made and tested side by side: each alone is idle at its start and its end.
SIDE_BY_SIDE = 2
ENVIRONMENTS = REPOSITORY / ".run" / "envs"
BIN = Path(sys.executable).parent

started = time.monotonic()


def say(text: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


class Environment(NamedTuple):
    """An Airflow on a Python, installed or to be."""

    airflow: str
    release: Release
    python: str
    interpreter: Path

    @property
    def name(self) -> str:
        """By which people and folders know it."""
        return f"{self.airflow}-py{self.python}{self.release.suffix}"

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return ENVIRONMENTS / self.name / "bin"

    def make(self) -> None:
        """Install it, unless it is as it should be."""
        release = self.release
        wanted = f"{release}\n{(REPOSITORY / 'pyproject.toml').read_text()}"
        ready = ENVIRONMENTS / self.name / "ready"
        if ready.exists() and ready.read_text() == wanted:
            return
        say(f"Airflow {self.airflow}: making the environment, with {self.interpreter}")
        folder = ready.parent
        uv: list[str | Path] = [BIN / "uv", "--quiet", "--no-python-downloads"]
        env = {**os.environ, "UV_CACHE_DIR": str(REPOSITORY / ".venv" / "cache")}
        install: list[str | Path] = [
            *uv,
            "pip",
            "install",
            "--python",
            self.bin / "python",
            f"apache-airflow=={self.airflow}",
            *release.pre_releases,
        ]
        commands: list[list[str | Path]] = [
            [*uv, "venv", "--clear", "--python", self.interpreter, folder],
            [*install, "--exclude-newer", release.day],
            # Then this provider, as a user does who has that Airflow: what serves as it is stays.
            [*install, "--editable", ".[emulator,test]", *release.also],
        ]
        for command in commands:
            subprocess.run(command, cwd=REPOSITORY, env=env, check=True)
        ready.write_text(wanted)


class Run(NamedTuple):
    """Tests to be run in an environment."""

    title: str
    environment: Environment
    arguments: Sequence[str]
    more_env: Mapping[str, str] = {}

    def carry_out(self, reports: Path) -> bool:
        """Run the tests; return whether they passed."""
        began = time.monotonic()
        log = self.log(reports)
        report = log.parent / f"{log.stem}.xml"
        with log.open("wb") as output:
            passed = not subprocess.run(
                [
                    *(self.environment.bin / "python", "-m", "pytest", "--color=no", f"--junitxml={report}"),
                    *self.arguments,
                ],
                cwd=REPOSITORY,
                env={**os.environ, **self.more_env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            ).returncode
        counts = Counts([report]) if report.exists() else "ended early"
        say(f"{self.title}: {'' if passed else 'FAILED: '}{counts} in {time.monotonic() - began:.0f} s")
        return passed

    def log(self, reports: Path) -> Path:
        """Return the file with what the tests print."""
        return reports / f"{self.title.replace(' ', '-')}.log"


def interpreters(python: str) -> Iterator[Path]:
    """Find what may be this Python: the one that runs this, those on the path, and pyenv's."""
    if sys.version.startswith(f"{python}."):
        yield Path(sys.base_prefix, "bin", f"python{python}")
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{python}", path=folder):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{python}.*/bin/python{python}"), reverse=True)


def runs(interpreter: Path, python: str) -> bool:
    """Tell whether it is this Python, and works: pyenv leaves programs on the path that only complain."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        asked = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=30)
    except OSError:
        return False
    return asked.stdout.strip() == python


def environment(airflow: str, release: Release) -> Environment:
    """
    Return the environment for this Airflow, on the first of its Pythons that is here.

    :raises SystemExit: there is none.
    """
    pythons = release.pythons
    for python in pythons:
        found = next((path for path in interpreters(python) if runs(path, python)), None)
        if found:
            if python != pythons[0]:
                say(f"Airflow {airflow}: there is no Python {pythons[0]} here, so {python} it is")
            return Environment(airflow, release, python, found)
    raise SystemExit(f"Airflow {airflow} needs one of the Pythons {', '.join(pythons)}, and none was found.")


def main() -> int:
    """Run the tests; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--airflow", choices=SUPPORTED, action="append", help="only this one; may be repeated"
    )
    parser.add_argument("--jobs", type=int, default=JOBS, help="tests at a time; default: %(default)s")
    parser.add_argument("--reports", type=Path, help="where the results go; default: .run/versions")
    parser.add_argument("tests", nargs="*", help="arguments for pytest; default: all that is said above")
    options = parser.parse_args()
    environments = [environment(airflow, SUPPORTED[airflow]) for airflow in options.airflow or SUPPORTED]
    parallel = [DISTRIBUTION, f"-n{max(options.jobs // SIDE_BY_SIDE, 1)}"]
    arguments = options.tests or [*parallel, "-m", "not no_airflow and not one_airflow", *SUITES]
    runs = [Run(f"Airflow {each.airflow} on Python {each.python}", each, arguments) for each in environments]
    if not options.tests:
        # `make test` runs on the Python that runs this, which is the oldest here: the other end is the newest.
        newest = max(environments, key=lambda each: [int(part) for part in each.python.split(".")])
        if not sys.version.startswith(f"{newest.python}."):
            ignored = [f"--ignore={path}" for path in ONCE]
            # First, since it takes longest.
            runs.insert(
                0,
                Run(
                    f"without Airflow on Python {newest.python}",
                    newest,
                    [*parallel, *SUITES, *ignored],
                    {"TESTS_WITHOUT_AIRFLOW": "1"},
                ),
            )
    with RunFolder(REPOSITORY / ".run" / "versions") as folder, ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        reports = options.reports or folder.path
        reports.mkdir(exist_ok=True)
        list(pool.map(Environment.make, environments))
        say(f"{len(runs)} runs; what they print goes to {reports.relative_to(REPOSITORY)}/")
        passed = list(pool.map(lambda run: run.carry_out(reports), runs))
        for run, is_passed in zip(runs, passed, strict=True):
            if not is_passed:
                print(f"\n--- {run.title}\n{run.log(reports).read_text(errors='replace')}", flush=True)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"FAILED: {' '.join(map(str, error.cmd))}")
    except KeyboardInterrupt:
        sys.exit(130)
