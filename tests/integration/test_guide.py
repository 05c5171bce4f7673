"""The guide, followed to the letter in an empty folder: its files, and its commands as far as they need no network."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import airflow

REPOSITORY = Path(__file__).parents[2]
GUIDE = (REPOSITORY / "docs" / "guide.md").read_text()
#: What the emulator of the guide is waited for, in the place of a second terminal.
STARTED = """ > emulator.log 2>&1 &
trap "kill $!" EXIT
timeout 60 sh -c 'until grep -q "For Airflow" emulator.log; do sleep 0.2; done'
"""


def blocks() -> list[tuple[str, str]]:
    """Return language and text of the guide's blocks of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)


def write_files(folder: Path) -> list[str]:
    """Write the blocks that begin with the name of a file; return the others that are for a shell."""
    commands = []
    for language, text in blocks():
        if named := re.match(r"(?:#|<!--) ([\w./]+\.\w+)", text):
            path = folder / named[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            if airflow.__version__.startswith("2."):
                text = text.replace(
                    "from airflow.sdk import", "from airflow.providers.common.compat.sdk import"
                )
            path.write_text(text)
        elif language == "sh":
            commands.append(text)
        else:
            assert language == "console", f"a block of the guide that nobody runs:\n{text}"
    return commands


def test_the_guide_leads_where_it_says(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    assert shutil.which("chromium"), "The guide's app drives Debian's Chromium: apt-get install chromium"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    script = "set -eu\n" + "\n".join(write_files(tmp_path)).replace("8484", port)
    script, started = re.subn(r"(kernel\.emulator) (.*)\n", rf"\1 --port={port} \2{STARTED}", script)
    assert started == 1

    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "[app] found £12.50" in said
    assert "Returned value was: The lamp costs 12.50" in said
    assert "3 passed" in said
    assert f"http://127.0.0.1:{port}" in (tmp_path / "emulator.log").read_text()
