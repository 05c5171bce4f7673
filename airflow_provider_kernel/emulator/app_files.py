"""
The app files that are served. With ``--reload`` a file that has changed is imported again for the next invocation.

What is imported is a new deployment, as after ``kernel deploy``: invocations that are active keep the old one, which is
stopped after the last of them. If the file cannot be imported, the new deployment has failed, and the old one stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.deployments import Deployment
from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.node import is_node_file
from airflow_provider_kernel.emulator.process import Forkserver
from airflow_provider_kernel.emulator.source_files import Stamps, forget_cached

#: Maximum seconds of an import by ``--reload``: submissions wait for it.
RELOAD_SECONDS = 60.0


class AppFiles:
    """
    Notices when app files change, and imports them again.

    :param engine: has the deployments of the files.
    :param console: prints what was imported again, and what was not.
    :param reload: whether changed files are imported again; False: the console says that they are not.
    """

    def __init__(self, engine: Engine, console: Console, *, reload: bool) -> None:
        self._engine = engine
        self._deployments = engine.deployments
        self._console = console
        self._reload = reload
        self._stamps = {deployment: _stamps(deployment.forkserver) for deployment in engine.deployments}
        self._retired: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._on_end: Callable[[Forkserver], None] | None = None

    def watch(self, on_end: Callable[[Forkserver], None]) -> None:
        """Call ``on_end`` when a forkserver ends that serves an app file, also one that is started later."""
        self._on_end = on_end
        for deployment in self._stamps:
            self._watch(deployment.forkserver)

    async def refresh(self) -> None:
        """Import the files again that have changed. Return when invocations can be submitted to the new apps."""
        async with self._lock:  # Of two submissions at once, the second finds nothing changed.
            for deployment, stamps in list(self._stamps.items()):
                if changed := stamps.changed():
                    await self._on_change(deployment, changed)

    async def _on_change(self, old: Deployment, changed: Sequence[str]) -> None:
        path = old.forkserver.path
        what = _describe(path, changed)
        if not self._reload:
            use = "restart the emulator to use the change, or start it with --reload"
            if is_node_file(path):  # Each invocation reads it anew.
                use = "invocations run the change, but its new actions need a restart of the emulator, or --reload"
            self._console.note(f"{what}: {use}")
            now = time.time_ns()
            self._stamps[old] = Stamps(old.forkserver.files, now, now)
            return
        forget_cached(changed)
        new = self._deployments.start(path, old.version)
        try:
            apps = self._deployments.serve(new, await _import(new.forkserver), replaced=old)
        except AppFileError as error:
            await asyncio.to_thread(new.forkserver.close)
            new.set_status("failed", f"{error}.")
            self._stamps[old] = _stamps(new.forkserver, *old.forkserver.files)
            self._console.error(f"{what}, but cannot be used: {error}. The version from before stays.")
        except BaseException:  # The emulator stops. A thread that waits for the import would delay that.
            new.forkserver.close()
            raise
        else:
            self._replace(old, new)
            note = self._deployments.version_note
            names = ", ".join(f"{app.name}.{action}{note(app)}" for app in apps for action in app.actions)
            self._console.note(f"{what} and was read again: {names}")

    def _replace(self, old: Deployment, new: Deployment) -> None:
        """Have ``old`` end with the last of its invocations; ``new`` serves the file."""
        del self._stamps[old]
        self._stamps[new] = _stamps(new.forkserver)
        if self._on_end is not None:
            old.forkserver.unwatch()
            self._watch(new.forkserver)
        task = asyncio.create_task(self._retire(old))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    async def _retire(self, old: Deployment) -> None:
        await self._engine.wait_until_unused(old.forkserver)
        await asyncio.to_thread(self._deployments.stop, old)

    def _watch(self, forkserver: Forkserver) -> None:
        if (on_end := self._on_end) is not None:
            forkserver.watch(lambda: on_end(forkserver))


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


def _stamps(forkserver: Forkserver, *others: str) -> Stamps:
    return Stamps({*forkserver.files, *others}, forkserver.started, time.time_ns())


def _describe(path: Path, changed: Sequence[str]) -> str:
    """Return that the app file has changed, or which file that it imports."""
    if str(path.resolve()) in changed:
        return f"{path} has changed"
    return f"{Path(changed[0]).name}, which {path} imports, has changed"
