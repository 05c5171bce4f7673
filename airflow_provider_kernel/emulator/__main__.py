"""The command line: ``python -m airflow_provider_kernel.emulator APP.py [APP2.py ...]``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_kernel.api.arguments import SYNC_LIMIT_SECONDS
from airflow_provider_kernel.emulator import API_KEY_VARIABLE
from airflow_provider_kernel.emulator.account import REFUSALS
from airflow_provider_kernel.emulator.authority import is_loopback, served_hosts
from airflow_provider_kernel.emulator.environment import (
    INHERITED,
    OptionError,
    inherited,
    read_env_file,
    read_option,
)
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.process import Forkserver

if TYPE_CHECKING:
    from airflow_provider_kernel.emulator.engine import App

#: What actions find as KERNEL_API_KEY, and users are told to set, where any key is taken.
ANY_KEY = "sk_emulator"

#: What the extra `emulator` installs.
NEEDED = ("kernel", "psutil", "starlette", "uvicorn")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Serve until stopped. Return the exit status.

    0: stopped by Ctrl-C or SIGTERM. 1: the process that holds an app was lost. 2: it could not start; the
    reason is one line on standard error.
    """
    options = _parser().parse_args(arguments)
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        install = "pip install 'airflow-provider-kernel[emulator]'"
        print(f"Kernel emulator: not installed: {', '.join(missing)}. Run: {install}", file=sys.stderr)
        return 2
    try:
        return _serve(options)
    except (AppFileError, OptionError, OSError) as error:
        print(f"Kernel emulator: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


def _serve(options: argparse.Namespace) -> int:
    given = _environment(options.env, options.env_file)
    with ExitStack() as stack:
        has_key = options.api_key is not None
        listener = stack.enter_context(_listen(options.host, options.port, has_key=has_key))
        address, port = listener.getsockname()[:2]
        url = _url(address, port)
        key = options.api_key or ANY_KEY
        environment = given | {"KERNEL_BASE_URL": url, "KERNEL_API_KEY": key}
        forkservers = [stack.enter_context(closing(Forkserver(file, environment))) for file in options.files]
        # Imported while the zygotes import their apps.
        from airflow_provider_kernel.emulator.engine import Engine
        from airflow_provider_kernel.emulator.server import make_app
        from airflow_provider_kernel.emulator.uvicorn_server import run

        apps = _apps(forkservers)
        engine = Engine(apps, max_concurrency=options.max_concurrency, sync_timeout=options.sync_timeout)
        app = make_app(
            engine,
            api_key=options.api_key,
            heartbeat=options.heartbeat,
            refuse=options.refuse,
            served=served_hosts(options.host, address),
        )
        shown = "<the key of --api-key>" if has_key else key
        return run(
            app,
            engine,
            listener,
            forkservers,
            announcement=_announcement(url, shown, apps),
            access_log=options.access_log,
            exit_with_stdin=options.exit_with_stdin,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_kernel.emulator",
        description="The Kernel API on localhost, running the apps of the given files. Ctrl-C stops it.",
        epilog="Apps get the variables of --env and --env-file, and of this terminal's environment only "
        f"{INHERITED.replace(' ', ', ')}. KERNEL_BASE_URL and KERNEL_API_KEY are always the emulator's.",
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="APP.py", help="a file that defines kernel.App(s)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s). One that other machines can reach needs --api-key: who "
        "has the key can run the apps. A request's Host header must name this host or loopback, such as localhost; "
        "any host is taken if this one is 0.0.0.0 or ::",
    )
    parser.add_argument("--port", type=_port, default=8484, help="0 picks a free one (default: %(default)s)")
    parser.add_argument(
        "--api-key",
        type=_key,
        default=os.environ.get(API_KEY_VARIABLE),
        help=f"the only bearer token that is taken (default: the variable {API_KEY_VARIABLE}, which other users of this "
        "machine cannot see; else any)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="environment variable for the apps; without a value, this terminal's. May be repeated",
    )
    parser.add_argument(
        "--env-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="read variables for the apps from a .env file; --env wins. May be repeated",
    )
    parser.add_argument(
        "--max-concurrency",
        type=_positive(int),
        metavar="N",
        help="answer 429 when N invocations are queued or running (default: no limit)",
    )
    parser.add_argument(
        "--refuse",
        choices=REFUSALS,
        help="refuse as Kernel does: with 403 what starts an invocation (spending-cap) or changes anything "
        "(insufficient-scope), or each request that names a project (other-project), or that with 404 "
        "(unknown-project)",
    )
    parser.add_argument(
        "--sync-timeout",
        type=_positive(float),
        default=SYNC_LIMIT_SECONDS,
        metavar="SECONDS",
        help="cut a synchronous invocation after so long (default: %(default)s, as Kernel does)",
    )
    parser.add_argument(
        "--heartbeat",
        type=_positive(float),
        default=15.0,
        metavar="SECONDS",
        help="silence after which an event stream sends a heartbeat (default: %(default)s)",
    )
    parser.add_argument("--access-log", action="store_true", help="log each request")
    parser.add_argument(
        "--exit-with-stdin", action="store_true", help="stop when standard input ends: when the parent does"
    )
    return parser


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not 0 < value < float("inf"):
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a positive {noun}")
        return value

    return convert


def _port(text: str) -> int:
    # Larger ones are not refused below: the system takes what is left of them after division by 65,536.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to 65535")
    return int(text)


def _key(text: str) -> str:
    # What no client can send as a token would refuse every request; an empty one, from an unset variable.
    if not text.isascii() or not text.isprintable() or text != text.strip() or not text:
        raise argparse.ArgumentTypeError("not a token: it must be ASCII text without spaces around it")
    return text


def _environment(options: Sequence[str], files: Sequence[Path]) -> dict[str, str]:
    """Return the variables that the apps get, except the emulator's own."""
    variables = inherited(os.environ)
    for file in files:
        try:
            variables |= read_env_file(file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
        except (OptionError, OSError) as error:
            raise OptionError(f"--env-file {file}: {getattr(error, 'strerror', error)}") from None
    return variables | dict(read_option(option, os.environ) for option in options)


def _listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Return a listening socket, so that no one else can take the port while the apps are imported."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not (has_key or is_loopback(str(address[0]))):
            raise OptionError(
                f"with --host {host} other machines can run the apps: set the token that they need with --api-key"
            )
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise OSError(f"cannot listen on {host} port {port}: {reason}") from None
    # asyncio would do it for each connection, but not for those of a socket that it did not make.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(address: str, port: int) -> str:
    """Return the URL by which this machine reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - read here, not chosen
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _apps(forkservers: Sequence[Forkserver]) -> dict[str, App]:
    from airflow_provider_kernel.emulator.engine import App, new_id

    apps: dict[str, App] = {}
    for forkserver in forkservers:
        deployment_id = new_id()
        for name, actions in forkserver.apps().items():
            if name in apps:
                raise AppFileError(
                    f"both {apps[name].forkserver.path} and {forkserver.path} define the app {name!r}"
                )
            apps[name] = App(name, tuple(actions), forkserver, new_id(), deployment_id)
    return apps


def _announcement(url: str, key: str, apps: dict[str, App]) -> str:
    connection = json.dumps({"conn_type": "kernel", "host": url, "password": key})
    return "\n".join(
        [
            f"Kernel emulator on {url}",
            *(f"{app.name}: {', '.join(app.actions)}" for app in apps.values()),
            f"For the SDK: KERNEL_BASE_URL={url} KERNEL_API_KEY={shlex.quote(key)}",
            f"For Airflow: AIRFLOW_CONN_KERNEL_DEFAULT={shlex.quote(connection)}",
        ]
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server's own comes with its start
    sys.exit(main())
