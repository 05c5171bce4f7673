"""
The app files that are served. With ``--reload`` a file that has changed is imported again for the next invocation.

The new version is a deployment of its own, as after ``kernel deploy``: invocations that are active keep the old version,
whose forkserver ends with the last of them. If the new version cannot be imported, the old one stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.engine import App, Engine, new_id
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.node import is_node_file
from airflow_provider_kernel.emulator.process import Forkserver
from airflow_provider_kernel.emulator.source_files import Stamps, forget_cached

#: Maximum seconds of an import by ``--reload``: submissions wait for it.
RELOAD_SECONDS = 60.0


def apps_of(forkservers: Sequence[Forkserver]) -> dict[str, App]:
    """
    Wait until the forkservers have imported their files; return the apps, by name.

    :raises AppFileError: a file cannot be served, or two files define the same app.
    """
    apps: dict[str, App] = {}
    for forkserver in forkservers:
        _add(apps, forkserver, forkserver.apps())
    return apps


class AppFiles:
    """
    Notices when app files change, and imports them again.

    :param engine: has the apps.
    :param forkservers: have imported the app files.
    :param environment: the complete environment of a forkserver.
    :param console: prints what was imported again, and what was not.
    :param reload: whether changed files are imported again; False: the console says that they are not.
    """

    def __init__(
        self,
        engine: Engine,
        forkservers: Sequence[Forkserver],
        environment: Mapping[str, str],
        console: Console,
        *,
        reload: bool,
    ) -> None:
        self._engine = engine
        self._environment = environment
        self._console = console
        self._reload = reload
        self._stamps = {forkserver: _stamps(forkserver) for forkserver in forkservers}
        self._retired: dict[Forkserver, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._on_end: Callable[[Forkserver], None] | None = None

    def watch(self, on_end: Callable[[Forkserver], None]) -> None:
        """Call ``on_end`` when a forkserver ends that serves an app file, also one that is started later."""
        self._on_end = on_end
        for forkserver in self._stamps:
            forkserver.watch(lambda forkserver=forkserver: on_end(forkserver))  # type: ignore[misc]

    async def refresh(self) -> None:
        """Import the files again that have changed. Return when invocations can be submitted to the new apps."""
        async with self._lock:  # Of two submissions at once, the second finds nothing changed.
            for forkserver, stamps in list(self._stamps.items()):
                if changed := stamps.changed():
                    await self._on_change(forkserver, changed)

    def close(self) -> None:
        """End all forkservers."""
        for forkserver in (*self._stamps, *self._retired):
            forkserver.close()

    async def _on_change(self, old: Forkserver, changed: Sequence[str]) -> None:
        what = _describe(old.path, changed)
        if not self._reload:
            use = "restart the emulator to use the change, or start it with --reload"
            if is_node_file(old.path):  # Each invocation reads it anew.
                use = "invocations run the change, but its new actions need a restart of the emulator, or --reload"
            self._console.note(f"{what}: {use}")
            now = time.time_ns()
            self._stamps[old] = Stamps(old.files, now, now)
            return
        forget_cached(changed)
        others = {name: app for name, app in self._engine.apps.items() if app.forkserver is not old}
        new = Forkserver(old.path, self._environment)
        try:
            apps = _add(others, new, await _import(new))
        except AppFileError as error:
            await asyncio.to_thread(new.close)
            self._stamps[old] = _stamps(new, *old.files)
            self._console.error(f"{what}, but cannot be used: {error}. The version from before stays.")
        except BaseException:  # The emulator stops. A thread that waits for the import would delay that.
            new.close()
            raise
        else:
            self._engine.apps = others
            self._replace(old, new)
            names = ", ".join(f"{app.name}.{action}" for app in apps.values() for action in app.actions)
            self._console.note(f"{what} and was read again: {names}")

    def _replace(self, old: Forkserver, new: Forkserver) -> None:
        """Have ``old`` end with the last of its invocations; ``new`` serves the file."""
        del self._stamps[old]
        self._stamps[new] = _stamps(new)
        if self._on_end is not None:
            old.unwatch()
            on_end = self._on_end
            new.watch(lambda: on_end(new))
        self._retired[old] = asyncio.create_task(self._retire(old))

    async def _retire(self, old: Forkserver) -> None:
        await self._engine.wait_until_unused(old)
        await asyncio.to_thread(old.close)
        del self._retired[old]


async def _import(forkserver: Forkserver) -> dict[str, list[str]]:
    """
    Wait until a forkserver has imported its file; return the actions' names by app.

    :raises AppFileError: the file cannot be served, or the import takes too long.
    """
    importing = asyncio.create_task(asyncio.to_thread(forkserver.apps))
    done, _ = await asyncio.wait([importing], timeout=RELOAD_SECONDS)
    if not done:
        await asyncio.to_thread(forkserver.close)
        await asyncio.wait([importing])
        raise AppFileError(f"{forkserver.path}: the import took more than {RELOAD_SECONDS:g} seconds")
    return importing.result()


def _add(
    apps: dict[str, App], forkserver: Forkserver, actions: Mapping[str, Sequence[str]]
) -> dict[str, App]:
    """Add a deployment of a forkserver's apps to ``apps``; return the added ones."""
    deployment_id = new_id()
    added = {
        name: App(name, tuple(names), forkserver, new_id(), deployment_id) for name, names in actions.items()
    }
    for name in added:
        if name in apps:
            raise AppFileError(
                f"{apps[name].forkserver.path} and {forkserver.path} both define the app {name!r}"
            )
    apps |= added
    return added


def _stamps(forkserver: Forkserver, *others: str) -> Stamps:
    return Stamps({*forkserver.files, *others}, forkserver.started, time.time_ns())


def _describe(path: Path, changed: Sequence[str]) -> str:
    """Return that the app file has changed, or which file that it imports."""
    if str(path.resolve()) in changed:
        return f"{path} has changed"
    return f"{Path(changed[0]).name}, which {path} imports, has changed"
