"""The import of a Python app file, with one sentence for each error."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kernel.app_framework import KernelApp


class AppFileError(Exception):
    """An app file cannot be served. The message is one sentence, without a full stop, for the app's author."""


def load_apps(path: Path) -> dict[str, KernelApp]:
    """
    Import an app file, with its folder first on ``sys.path``; return the apps that it defines, by name.

    Two apps of one name in a file are an error; the SDK would silently keep the second.

    :param path: the app file.
    :raises AppFileError: the file cannot be imported, defines no app, or an app has no action.
    """
    check_file(path)
    from kernel.app_framework import app_registry

    register = app_registry.register_app

    def register_once(app: KernelApp) -> None:
        if app.name in app_registry.apps:
            raise ValueError(f"two apps are named {app.name!r}")
        register(app)

    app_registry.register_app = register_once  # type: ignore[method-assign]
    file = path.resolve()
    sys.path.insert(0, str(file.parent))
    sys.argv = [str(file)]
    # The module gets the file's name, as in an import, unless a module of that name is loaded.
    name = file.stem if file.stem not in sys.modules else f"kernel_app_{file.stem}"
    loader = SourceFileLoader(name, str(file))
    spec = ModuleSpec(name, loader, origin=str(file))
    spec.has_location = True
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:  # noqa: BLE001 - whatever the file raises, also by sys.exit(), is reported to its author
        raise AppFileError(_describe(error, path, str(file))) from None
    apps = dict(app_registry.apps)
    check_apps(
        path,
        [(app.name, list(app.actions)) for app in apps.values()],
        hints=("app = kernel.App('name')", "@app.action('name')"),
    )
    return apps


def check_file(path: Path) -> None:
    """
    Check that an app file exists.

    :raises AppFileError: it does not.
    """
    if not path.is_file():
        raise AppFileError(
            f"{path}: {'this is a folder, not an app file' if path.is_dir() else 'no such file'}"
        )


def check_apps(path: Path, apps: Sequence[tuple[object, Sequence[object]]], hints: tuple[str, str]) -> None:
    """
    Check that a file defines apps with actions, and that their names can be used.

    :param path: the app file.
    :param apps: name and names of the actions of each app.
    :param hints: code that defines an app, and code that defines an action.
    :raises AppFileError: one of that is missing or wrong.
    """
    if not apps:
        raise AppFileError(f"{path}: the file defines no app. Add {hints[0]}")
    for app, actions in apps:
        if not actions:
            raise AppFileError(f"{path}: the app {app!r} has no action. Add {hints[1]}")
        for name in (app, *actions):
            if not isinstance(name, str) or not name.strip():
                raise AppFileError(
                    f"{path}: {name!r} cannot be the name of an app or an action. Use a non-empty string"
                )


def _describe(error: BaseException, path: Path, file: str) -> str:
    """Return file, line and reason; if the app file only called the code that failed, the place of that code too."""
    message = error.msg if isinstance(error, SyntaxError) else error
    reason = " ".join(f"{type(error).__name__}: {message}".split()).removesuffix(":")
    if isinstance(error, SyntaxError) and error.filename:
        shown = str(path) if error.filename == file else error.filename
        return f"{shown}, line {error.lineno}: {reason}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    last = frames[-1]
    if last.filename == file or last.filename.startswith("<frozen"):
        return f"{where}: {reason}"
    return f"{where}: {reason} ({last.filename}, line {last.lineno})"
