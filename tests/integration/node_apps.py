"""Node.js packages for tests, which npm installs once."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from dev.processes import REPOSITORY

FOLDER = REPOSITORY / ".run" / "node"


def install(*packages: str) -> Path:
    """Return the folder ``node_modules`` with these packages; skip the test if they cannot be installed."""
    found = _install(packages)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@cache
def _install(packages: tuple[str, ...]) -> Path | str:
    """Return the folder ``node_modules`` with these packages, or the reason why there is none."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"there is no {program}. Install Node.js and npm to test TypeScript apps"
    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = FOLDER / "+".join(re.sub(r"[^\w.-]+", "-", package).strip("-") for package in packages)
    with (FOLDER / "lock").open("w") as lock:  # Tests run in several processes.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = FOLDER / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            (unfinished / "package.json").write_text("{}")
            command = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=1", *packages]
            try:
                subprocess.run(
                    command, cwd=unfinished, check=True, capture_output=True, text=True, timeout=300
                )
            except (subprocess.SubprocessError, OSError) as error:
                reason = str(getattr(error, "stderr", None) or error).strip()
                return f"npm cannot install {', '.join(packages)}: {reason[-300:]}"
            unfinished.rename(folder)
    return folder / "node_modules"


def make_folder(folder: Path, node_modules: Path) -> Path:
    """Make a folder a package of ES modules with these ``node_modules``."""
    (folder / "package.json").write_text('{"type": "module", "dependencies": {"@onkernel/sdk": "*"}}')
    (folder / "node_modules").symlink_to(node_modules)
    return folder
