"""
The file system of a browser: a folder that has what Kernel's machine has at ``/``.

Choices where Kernel's behaviour is unknown: a missing parent folder is created; owner and group cannot be changed.
"""

from __future__ import annotations

import io
import lzma
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from airflow_provider_kernel.emulator.contract import ApiError, bad_request, not_found

#: Maximum entries of a zip archive, and maximum bytes of what is unpacked.
MAX_ZIP_ENTRIES, MAX_UNPACKED_BYTES = 50_000, 512 * 2**20
#: Maximum folders within folders: Python creates and deletes them recursively.
MAX_DEPTH = 100
#: How zipfile and the decompressors refuse an archive.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    IndexError,  # for an entry without a name
    NotImplementedError,
    RuntimeError,
    ValueError,
)
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
        if len(parts) > MAX_DEPTH:
            raise bad_request(f"path must not have more than {MAX_DEPTH} parts")
        place = self.root.joinpath(*parts)
        try:
            # Of a link itself, only its folder counts.
            end = place.parent if place.is_symlink() and not follows_links else place
            is_inside = not parts or end.resolve().is_relative_to(self.root)
        except (OSError, ValueError):
            raise bad_request("path is too long, or has characters that no file name can have") from None
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

        If it is refused, nothing is unpacked.

        :raises ApiError: 400: it is not a zip archive, is too large, or holds a link, a name twice, or a file that belongs
            outside the folder.
        """
        self.locate(path)
        # Of the central directory; to parse millions of entries would need gigabytes.
        if archive.count(b"PK\x01\x02") > MAX_ZIP_ENTRIES:
            raise bad_request(f"zip_file must not have more than {MAX_ZIP_ENTRIES} entries")
        try:
            with (
                zipfile.ZipFile(io.BytesIO(archive)) as file,
                tempfile.TemporaryDirectory(dir=self.root.parent, prefix="unzip-") as folder,
            ):
                members = file.infolist()
                _check_members(members)
                places = [self.locate(f"{path}/{member.filename}") for member in members]
                for member, place in zip(members, places, strict=True):
                    folders = [it for it in place.parents if it.is_relative_to(self.root)]
                    is_other = place.exists() and place.is_dir() != member.is_dir()
                    if is_other or any(it.exists() and not it.is_dir() for it in folders):
                        raise bad_request(f"dest_path has a file or folder in the place of {member.filename}")
                # A mode that forbids the owner to read is left out, as extract() does.
                self._do(path, lambda _: file.extractall(folder))
                self.create_folder(path)
                self._do(path, lambda _: _move_all(Path(folder), members, places))
        except _ZIP_ERRORS:
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


def _check_members(members: Sequence[zipfile.ZipInfo]) -> None:
    """
    Check the entries of a zip archive.

    :raises ApiError: 400: one of them cannot be unpacked, or all of them are too large.
    """
    names: set[PurePosixPath] = set()
    for member in members:
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or not (name.parts or member.is_dir()):
            raise bad_request("zip_file must have relative names without ..")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise bad_request("zip_file must not have links")
        if name in names:
            raise bad_request("zip_file must not have the same name twice")
        names.add(name)
    files = {PurePosixPath(member.filename) for member in members if not member.is_dir()}
    if any(files.intersection(name.parents) for name in names):
        raise bad_request("zip_file has a file where it has a folder")
    # zipfile reads no more of an entry than its header says.
    if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
        raise bad_request(f"zip_file must not unpack to more than {MAX_UNPACKED_BYTES} bytes")


def _move_all(source: Path, members: Sequence[zipfile.ZipInfo], places: Sequence[Path]) -> None:
    """Move what was unpacked to its places."""
    for member, place in zip(members, places, strict=True):
        if member.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            (source / member.filename).replace(place)


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
