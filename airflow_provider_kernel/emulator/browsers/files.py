"""
The file system of a browser: a folder that has what Kernel's machine has at ``/``.

Choices where Kernel's behaviour is unknown: a missing parent folder is created; owner and group cannot be changed.
"""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from airflow_provider_kernel.emulator.contract import ApiError, bad_request, not_found

#: Where the browser's downloads go, and the other folders that a new browser has.
DOWNLOADS = "/home/kernel/Downloads"
_FOLDERS = (DOWNLOADS, "/tmp")  # noqa: S108 - a folder within the browser's

_T = TypeVar("_T")


class BrowserFiles:
    """
    The file system of one browser.

    :param root: the folder on this machine that holds it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for folder in _FOLDERS:
            self.locate(folder).mkdir(parents=True, exist_ok=True)

    def locate(self, path: object, *, follows_links: bool = True) -> Path:
        """
        Return the place on this machine of a path on the browser's.

        :param follows_links: whether the place that a link leads to is meant, not the link itself.
        :raises ApiError: 400: it is not an absolute path, or a link in it leads out of the browser's folder.
        """
        if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
            raise bad_request("path must be an absolute path")
        parts = [part for part in PurePosixPath(path).parts if part.strip("/")]
        if ".." in parts:
            raise bad_request("path must not contain ..")
        place = self.root.joinpath(*parts)
        # Of a link itself, only its folder counts.
        end = place.parent if place.is_symlink() and not follows_links else place
        try:
            is_inside = not parts or end.resolve().is_relative_to(self.root)
        except RuntimeError:  # The links form a circle.
            is_inside = False
        if not is_inside:
            raise bad_request("path leads out of the browser's files")
        return place

    def read(self, path: object) -> bytes:
        """Return the content of a file."""

        def read(place: Path) -> bytes:
            if not place.is_file() and place.exists():
                raise bad_request(f"Not a file: {path}")  # To read a pipe would wait.
            return place.read_bytes()

        return self._do(path, read)

    def write(self, path: object, content: bytes, mode: object = None) -> None:
        """Write a file, and its folders where they are missing. ``mode`` is octal, such as ``644``."""

        def write(place: Path) -> None:
            place.parent.mkdir(parents=True, exist_ok=True)
            if place.exists() and not place.is_file():
                raise bad_request(f"Not a file: {path}")
            place.write_bytes(content)
            place.chmod(_mode(mode or "644", 0o600))

        self._do(path, write)

    def list(self, path: object) -> list[dict[str, Any]]:
        """Return what a folder holds, by name."""
        return self._do(path, lambda folder: [self._info(place) for place in sorted(folder.iterdir())])

    def info(self, path: object) -> dict[str, Any]:
        """Return what is known of a file or folder."""
        return self._do(path, self._info)

    def create_folder(self, path: object, mode: object = None) -> None:
        """Create a folder, and those above it. One that exists stays as it is."""

        def create(place: Path) -> None:
            place.mkdir(parents=True, exist_ok=True)
            place.chmod(_mode(mode or "755", 0o700))

        self._do(path, create)

    def delete_folder(self, path: object) -> None:
        """Delete a folder and all that it holds."""
        if self.locate(path) == self.root:
            raise bad_request("the root folder cannot be deleted")
        self._do(path, shutil.rmtree, follows_links=False)

    def delete(self, path: object) -> None:
        """Delete a file."""
        self._do(path, Path.unlink, follows_links=False)

    def move(self, source: object, destination: object) -> None:
        """Move or rename a file or folder."""

        def move(place: Path) -> None:
            place.lstat()
            target = self.locate(destination, follows_links=False)
            target.parent.mkdir(parents=True, exist_ok=True)
            place.rename(target)

        self._do(source, move, follows_links=False)

    def set_mode(self, path: object, mode: object) -> None:
        """Change the permissions of a file or folder. ``mode`` is octal."""
        self._do(path, lambda place: place.chmod(_mode(mode, 0o700 if place.is_dir() else 0o600)))

    def zip_folder(self, path: object) -> bytes:
        """Return a folder as a zip archive."""

        def pack(folder: Path) -> bytes:
            if not folder.is_dir():
                raise NotADirectoryError(folder)
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as file:
                for place in sorted(folder.rglob("*")):
                    if not place.is_symlink() and (place.is_file() or place.is_dir()):
                        file.write(place, place.relative_to(folder))
            return archive.getvalue()

        return self._do(path, pack)

    def unzip(self, path: object, archive: bytes) -> None:
        """
        Unpack a zip archive into a folder.

        :raises ApiError: 400: it is not a zip archive, or holds a file that belongs outside the folder.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as file:
                # A mode that makes a link or forbids the owner to read is left out, as extract() does.
                for member in file.infolist():
                    self.locate("/" + member.filename.lstrip("/"))
                self.create_folder(path)
                self._do(path, file.extractall)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
            raise bad_request("zip_file is not a zip archive that can be unpacked") from None

    def _do(self, path: object, action: Callable[[Path], _T], *, follows_links: bool = True) -> _T:
        """Return what ``action`` returns for the place of ``path``; its errors become those of the API."""
        if not self.root.is_dir():
            raise not_found("The browser is closed")
        try:
            return action(self.locate(path, follows_links=follows_links))
        except FileNotFoundError:
            raise not_found(f"No such file or directory: {path}") from None
        except OSError as error:
            raise ApiError(400, "bad_request", f"{error.strerror}: {path}") from None

    def _info(self, place: Path) -> dict[str, Any]:
        status = place.lstat()
        is_folder = stat.S_ISDIR(status.st_mode)
        return {
            "name": place.name or "/",
            "path": "/" + place.relative_to(self.root).as_posix().removeprefix("."),
            "is_dir": is_folder,
            "mode": stat.filemode(status.st_mode),
            "mod_time": datetime.fromtimestamp(status.st_mtime, UTC).isoformat().replace("+00:00", "Z"),
            "size_bytes": 0 if is_folder else status.st_size,
        }


def _mode(text: object, kept: int) -> int:
    """Return a mode; ``kept`` are bits that the owner keeps, so that the files can be read and deleted."""
    if not (
        isinstance(text, str)
        and text.isascii()
        and text.isdigit()
        and len(text) <= 4
        and set(text) <= set("01234567")
    ):
        raise bad_request("mode must be octal, such as 644")
    # Without set-user-id: the files belong to the user of this machine.
    return int(text, 8) & 0o777 | kept
