"""Where Airflow sends its metrics."""

from __future__ import annotations

import socket
from typing import Self


class StatsD:
    """A socket that gets the metrics of this provider, and none of Airflow's own."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)
        metrics = {
            "STATSD_ON": "True",
            "STATSD_HOST": "127.0.0.1",
            "STATSD_PORT": str(self._socket.getsockname()[1]),
            "STATSD_INFLUXDB_ENABLED": "True",
            "METRICS_ALLOW_LIST": "kernel",
        }
        #: What an Airflow needs in its environment.
        self.env = {f"AIRFLOW__METRICS__{name}": value for name, value in metrics.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def received(self) -> list[str]:
        """Return what has come since it was last asked."""
        lines = []
        while True:
            try:
                lines.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return lines
