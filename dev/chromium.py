"""The browser of some tests, and the programs beside it; as a program, installs what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = (
    "there is no browser. Install chromium (on Debian: apt-get install chromium), so that one of these is on the "
    f"PATH: {', '.join(NAMES)}"
)
#: Other programs that the emulator's browsers use where they are installed, and Debian's packages of them.
PROGRAMS = {"Xvfb": "xvfb", "xdotool": "xdotool", "ffmpeg": "ffmpeg"}
#: No request to anybody but Airflow.
ARGUMENTS = [
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def find() -> str | None:
    """Return the path of a chromium; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def has(*programs: str) -> bool:
    """Return whether all of these programs are installed."""
    return all(map(shutil.which, programs))


def ensure() -> str:
    """
    Return the path of a chromium. If it or one of the other programs is missing, install Debian's where that can be done.

    :raises RuntimeError: it cannot; the message says what to install.
    """
    missing = [package for program, package in PROGRAMS.items() if not has(program)]
    if not find():
        missing += ["chromium", "fonts-dejavu-core"]
    if missing and os.geteuid() == 0 and has("apt-get"):
        print(f"Installing {', '.join(missing)}, for the tests that look at a browser (once)", flush=True)
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["install", "--yes", "--quiet", "--no-install-recommends", *missing]
        for arguments in (["update", "--quiet"], install):
            done = subprocess.run(["apt-get", *arguments], env=env, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(
                    f"apt-get {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
                )
    if found := find():
        return found
    raise RuntimeError(MISSING)


def launch_options() -> dict[str, Any]:
    """Return what Playwright is to launch it with; Playwright switches the sandbox off unless it is told."""
    return {
        "executable_path": ensure(),
        "args": ARGUMENTS,
        "chromium_sandbox": os.geteuid() != 0,  # Chromium refuses to start as root with one
    }


if __name__ == "__main__":
    try:
        ensure()
    except RuntimeError as error:
        print(f"The tests that look at a browser will be skipped: {error}", flush=True)
