"""Running the server: uvicorn, its start and its end."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.process import Forkserver


def run(
    app: ASGIApp,
    engine: Engine,
    listener: socket.socket,
    forkservers: Sequence[Forkserver],
    *,
    announcement: str,
    access_log: bool,
    exit_with_stdin: bool,
) -> int:
    """Serve until stopped by a signal (0), the end of standard input if so told (0), or a lost zygote (1)."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        timeout_graceful_shutdown=1,
        # Longer than clients pause between two requests: they would send on a connection that is closing.
        timeout_keep_alive=75,
    )
    server = _Server(config, engine, forkservers, announcement, exit_with_stdin)
    server.run(sockets=[listener])
    return server.exit_status


class _Server(uvicorn.Server):
    exit_status = 0

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        forkservers: Sequence[Forkserver],
        announcement: str,
        exit_with_stdin: bool,
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._zygotes = forkservers
        self._announcement = announcement
        self._exit_with_stdin = exit_with_stdin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for forkserver in self._zygotes:
            forkserver.watch(lambda forkserver=forkserver: self._lost(forkserver))  # type: ignore[misc]
        if self._exit_with_stdin:
            try:
                asyncio.get_running_loop().add_reader(0, self._on_stdin)
            except PermissionError:  # a file, such as /dev/null: there is no parent to wait for
                self.should_exit = True
        print(self._announcement, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._engine.stop()  # streams and waiting calls come to their end, so that nothing is cut off
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; unlike uvicorn's, do not raise the signal again in the end: being stopped is no failure."""
        self.force_exit = self.should_exit
        self.should_exit = True

    def _lost(self, forkserver: Forkserver) -> None:
        print(
            f"Kernel emulator: the process that holds {forkserver.path} was lost", file=sys.stderr, flush=True
        )
        self.exit_status = 1
        self.should_exit = True

    def _on_stdin(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self.should_exit = True
