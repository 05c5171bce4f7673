"""The guide and the README's first steps, followed to the letter: each block in a new shell, as it is pasted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dev.airflow_api import AirflowApi
from dev.airflow_stack import free_port
from dev.processes import RunFolder
from dev.wait import wait_until
from tests.documented import REPOSITORY, blocks, write_files

pytestmark = [pytest.mark.one_airflow, pytest.mark.browser]

UV = REPOSITORY / ".venv/bin/uv"
LONGEST = 600
GUIDE, README = ((REPOSITORY / page).read_text() for page in ("docs/guide.md", "README.md"))


class Reader:
    """Somebody with a machine on which there is Python, and nothing of this repository."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = str(free_port())
        self.airflow_port = str(free_port())
        # What pip would get from PyPI: this package, as it is here, and the packages of this environment.
        constraints = home / "constraints.txt"
        freeze = [UV, "pip", "freeze", "--python", sys.executable, "--exclude-editable"]
        constraints.write_text(subprocess.run(freeze, check=True, capture_output=True, text=True).stdout)
        self.pip_install = f"{UV} pip install --quiet --constraints {constraints} "
        ours = ("AIRFLOW", "KERNEL", "PYTEST", "PYTHON", "VIRTUAL_ENV")
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "HOME": str(home),
            "PATH": f"{sys.base_prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "UV_CACHE_DIR": str(REPOSITORY / ".venv/cache"),
            # Others may use the usual ports of Airflow.
            "AIRFLOW__API__PORT": self.airflow_port,
            "AIRFLOW__API__BASE_URL": f"http://localhost:{self.airflow_port}",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{self.airflow_port}/execution/",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }

    def script(self, block: str) -> str:
        """Return a block with this machine's ports, and with this repository in the place of PyPI's package."""
        block = block.replace("pip install ", self.pip_install)
        block = block.replace("/path/to/this/repository", str(REPOSITORY))
        return (
            block.replace("8484", self.port)
            .replace("kernel.emulator --", f"kernel.emulator --port={self.port} --")
            .replace("kernel.emulator shop", f"kernel.emulator --port={self.port} shop")
        )

    def paste(self, block: str, folder: Path | None = None) -> str:
        """Run a block in a new shell; return what it said."""
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{self.script(block)}"],
            cwd=folder or self.home,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    @contextmanager
    def keep_running(self, block: str, until: str) -> Iterator[Path]:
        """Run a block in a terminal of its own, until Ctrl-C; the value is the file of what it says."""
        log = self.home / f"{until.split()[0]}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                ["bash", "-c", self.script(block)],
                cwd=self.home,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(
                lambda: until in log.read_text() or process.poll() is not None, LONGEST, f"it says {until!r}"
            )
            assert process.poll() is None, log.read_text()
            yield log
        finally:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(60)


@pytest.fixture
def reader(tmp_path):
    with RunFolder(tmp_path / "home") as folder:
        yield Reader(folder.path)


def test_the_guide_works_block_by_block(reader):
    folder = reader.home / "kernel-guide"
    others = write_files(GUIDE.partition("\n## On Kernel\n")[0], folder)
    assert {language for language, _ in others} == {"sh"}, "a block of the guide that nobody runs"
    install, emulator, run, test, standalone = [block for _, block in others]

    reader.paste(install)
    with reader.keep_running(emulator, "For Airflow") as log:
        said = reader.paste(run)

        [invocation_id] = set(re.findall(r"Kernel accepted invocation (\w+): http\S+ \(prices/read", said))
        assert re.search(r"\[app\] .*found £12\.50", said)
        assert f"Kernel invocation {invocation_id} succeeded" in said
        assert "Returned value was: The lamp costs 12.50" in said
        assert f"http://127.0.0.1:{reader.port}" in log.read_text()
        assert "3 passed" in reader.paste(test)

        first_run_succeeds(reader, standalone)


def first_run_succeeds(reader: Reader, standalone: str) -> None:
    """Start Airflow, and switch the Dag on, as somebody does in the UI."""
    passwords = reader.home / "kernel-guide/airflow/simple_auth_manager_passwords.json.generated"
    # Airflow may take minutes to end on a busy machine; what is left is killed with the reader's folder.
    with suppress(subprocess.TimeoutExpired), reader.keep_running(standalone, "Airflow is ready"):
        api = AirflowApi(f"http://localhost:{reader.airflow_port}")
        api.log_in("admin", json.loads(passwords.read_text())["admin"])
        wait_until(lambda: "price_of_the_lamp" in api.dag_ids(), LONGEST, "the Dag is read")
        api.call("PATCH", "dags/price_of_the_lamp", {"is_paused": False})

        def states() -> list[str]:
            runs = api.call("GET", "dags/price_of_the_lamp/dagRuns")["dag_runs"]
            return [run["state"] for run in runs]

        # The run of "airflow dags test" and that of this morning; none of the tests' runs.
        wait_until(
            lambda: len(states()) == 2 and not {"queued", "running"} & set(states()), LONGEST, "it has run"
        )
        assert states() == ["success", "success"]


def test_the_readmes_first_steps_work(reader):
    shell = [text for language, text in blocks(README) if language == "sh"]
    (install,) = [text for text in shell if "pip install" in text]
    (steps,) = [text for text in shell if "shop.py" in text]
    folder = reader.home / "empty"
    folder.mkdir()

    said = reader.paste(f"python3 -m venv ~/.venv\n. ~/.venv/bin/activate\n{install}{steps}", folder)

    assert "[app] looking up A-100" in said
    assert "Returned value was: A-100 costs 12.5" in said
