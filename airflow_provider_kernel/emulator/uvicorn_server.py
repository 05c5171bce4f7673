"""The HTTP server: start and end of uvicorn."""

from __future__ import annotations

import asyncio
import os
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from airflow_provider_kernel.emulator.app_files import AppFiles
from airflow_provider_kernel.emulator.browsers.pool import BrowserPool
from airflow_provider_kernel.emulator.console import Console
from airflow_provider_kernel.emulator.engine import Engine
from airflow_provider_kernel.emulator.http_protocol import HttpProtocol
from airflow_provider_kernel.emulator.process import Forkserver


def serve(
    app: ASGIApp,
    engine: Engine,
    browsers: BrowserPool,
    listener: socket.socket,
    app_files: AppFiles,
    *,
    console: Console,
    announcement: str,
    exit_with_stdin: bool,
) -> int:
    """
    Serve until a signal, the end of standard input (with ``exit_with_stdin``), or the end of a forkserver.

    :param console: prints what happens.
    :param announcement: text to print when the server accepts requests.
    :return: the exit status: 1 if a forkserver ended, otherwise 0.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=HttpProtocol,
        ws="websockets-sansio",
        ws_max_size=256 * 2**20,  # A command may have a file in it.
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        # Longer than clients pause between two requests: otherwise they send on a connection that is closing.
        timeout_keep_alive=75,
    )
    server = _Server(config, engine, browsers, app_files, console, announcement, exit_with_stdin)
    try:
        server.run(sockets=[listener])
    finally:
        console.close()
    return server.exit_status


class _Server(uvicorn.Server):
    exit_status = 0

    def __init__(
        self,
        config: uvicorn.Config,
        engine: Engine,
        browsers: BrowserPool,
        app_files: AppFiles,
        console: Console,
        announcement: str,
        exit_with_stdin: bool,
    ) -> None:
        super().__init__(config)
        self._engine = engine
        self._browsers = browsers
        self._app_files = app_files
        self._console = console
        self._announcement = announcement
        self._exit_with_stdin = exit_with_stdin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._app_files.watch(self._on_forkserver_end)
        if self._exit_with_stdin:
            try:
                asyncio.get_running_loop().add_reader(0, self._on_stdin)
            except PermissionError:  # Standard input is a file, such as /dev/null: no parent can close it.
                self.should_exit = True
        self._console.announce(self._announcement)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._engine.stop()  # Streams and synchronous calls then end with the invocation's result.
        await self._browsers.stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the server. uvicorn would raise the signal again at the end; a stopped emulator must exit with 0."""
        self.force_exit = self.should_exit
        self.should_exit = True

    def _on_forkserver_end(self, forkserver: Forkserver) -> None:
        self._console.error(
            f"the process that serves {forkserver.path} ended unexpectedly. The emulator stops."
        )
        self.exit_status = 1
        self.should_exit = True

    def _on_stdin(self) -> None:
        if not os.read(0, 4096):
            asyncio.get_running_loop().remove_reader(0)
            self.should_exit = True
