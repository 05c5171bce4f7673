"""The files of an app: which ones an import has read, and whether they have changed since."""

from __future__ import annotations

import os
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path

#: Folders below the app file's folder whose files are not the app's own.
_FOREIGN = {"site-packages", "dist-packages", "node_modules", ".venv", "venv"}


def imported_files(folder: Path, error: BaseException | None = None) -> list[str]:
    """
    Return the files below ``folder`` that this process has imported, without those of installed packages.

    :param folder: the folder of the app file.
    :param error: the exception that ended the import. The files that it is about count as imported, also one that is missing.
    """
    names = set()
    for module in list(sys.modules.values()):
        with suppress(Exception):  # Anything may be put into sys.modules.
            names.add(module.__file__)
    if error is not None:
        names |= {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    if isinstance(error, SyntaxError):
        names.add(error.filename)
    if isinstance(error, ModuleNotFoundError) and error.name:
        names.add(str(folder.joinpath(*error.name.split(".")).with_suffix(".py")))
    files = {Path(name).resolve() for name in names if isinstance(name, str) and not name.startswith("<")}
    return sorted(str(file) for file in files if _is_own(folder, file))


def _is_own(folder: Path, file: Path) -> bool:
    """Return whether a file belongs to the app, and not to Python or an installed package."""
    return (
        file.is_relative_to(folder)
        and not _FOREIGN.intersection(file.relative_to(folder).parts)
        and not file.is_relative_to(Path(sysconfig.get_path("stdlib")).resolve())
    )


class Stamps:
    """
    What tells whether files have changed since an import: time and size of each.

    :param files: the files that the import has read.
    :param started: when the import began, in nanoseconds since 1970.
    :param now: the current time, in nanoseconds since 1970.
    """

    def __init__(self, files: Iterable[str], started: int, now: int) -> None:
        self._stamps = {file: _stamp(file) for file in files}
        for file, stamp in self._stamps.items():
            # Whether the import has read the file before or after this change is unknown. Times after now say nothing.
            if stamp is not None and started <= stamp[0] <= now:
                self._stamps[file] = (-1, -1)

    def changed(self) -> list[str]:
        """Return the files that have changed."""
        return [file for file, stamp in self._stamps.items() if _stamp(file) != stamp]


def forget_cached(files: Iterable[str]) -> None:
    """Remove what Python has cached of these files: it does not notice a change within a second that keeps the size."""
    for file in files:
        with suppress(OSError, NotImplementedError):
            Path(cache_from_source(file)).unlink(missing_ok=True)


def _stamp(file: str) -> tuple[int, int] | None:
    """Return time and size of a file; None if it is missing."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
