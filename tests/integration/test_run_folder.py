"""The watchdog of a run folder ends all processes of a killed run, and of a run that the killed run started."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import psutil

from dev.processes import REPOSITORY, marked
from dev.wait import wait_until

SLEEP = dedent("""
    import subprocess, sys
    from pathlib import Path
    from dev.processes import RunFolder

    with RunFolder(Path(sys.argv[1])):
        subprocess.run(sys.argv[2:])
""")


def test_no_process_is_left_when_a_run_is_killed_that_has_started_another(tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    python = [sys.executable, "-c", SLEEP]
    run = subprocess.Popen([*python, outer, *python, inner, "sleep", "600"], cwd=REPOSITORY)

    def sleeping() -> list[psutil.Process]:
        return [process for process in marked(f"{inner}#") if process.name() == "sleep"]

    wait_until(sleeping, 120, "the inner run has started")
    run.kill()
    run.wait()

    wait_until(lambda: not marked(f"{outer}#") + marked(f"{inner}#"), 120, "no process of either run is left")
