"""A server that one run needs, such as a database."""

from __future__ import annotations

import secrets
import subprocess
from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Self

from dev.airflow_stack import free_port
from dev.wait import wait_until


class Server(AbstractContextManager["Server"]):
    """
    Starts the server on enter, stops it on exit. Use it within a :class:`~dev.processes.RunFolder`.

    :param folder: where its data and its log are, which must not exist yet.
    """

    #: What errors call it.
    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / f"{self.name.lower()}.log"
        self.port = free_port()
        self.password = secrets.token_hex(16)

    @abstractmethod
    def start(self) -> subprocess.Popen[bytes]:
        """Make the folder, and start the process in a session of its own: a Ctrl-C in the terminal ends it by the exit."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Return whether it takes connections."""

    @abstractmethod
    def stop(self) -> None:
        """End the process at once."""

    def __enter__(self) -> Self:
        self.process = self.start()

        def is_ready() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()}"
                )
            return self.is_ready()

        try:
            wait_until(is_ready, 60, f"{self.name} is ready", interval=0.05)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
