"""The command line: ``python -m airflow_provider_kernel.emulator APP [APP2 ...]``."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path

from airflow_provider_kernel.api.arguments import SYNC_LIMIT_SECONDS
from airflow_provider_kernel.emulator import API_KEY_VARIABLE, DEFAULT_API_KEY
from airflow_provider_kernel.emulator.account import REFUSALS
from airflow_provider_kernel.emulator.connection import airflow_connection
from airflow_provider_kernel.emulator.contract import VERSION_LABEL
from airflow_provider_kernel.emulator.deployments import Deployments, new_id
from airflow_provider_kernel.emulator.environment import (
    INHERITED,
    OptionError,
    inherited_variables,
    read_env_file,
    read_option,
)
from airflow_provider_kernel.emulator.faults import Fault, FaultList, parse_fault
from airflow_provider_kernel.emulator.host_and_origin import is_loopback, served_hosts
from airflow_provider_kernel.emulator.loader import AppFileError
from airflow_provider_kernel.emulator.process_control import allow_many_descriptors

#: Packages that the extra ``emulator`` installs.
REQUIRED_PACKAGES = ("kernel", "psutil", "python_multipart", "starlette", "uvicorn", "websockets")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the emulator until it is stopped.

    :param arguments: the command line; None: ``sys.argv``.
    :return: the exit status. 0: Ctrl-C, SIGTERM, or with ``--exit-with-stdin`` the end of standard input stopped the
        emulator. 1: the process that serves an app file ended. 2: the emulator could not start; one line on standard
        error has the reason.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.files or options.version):
        parser.error("give at least one file: APP or --version NAME=FILE")
    if missing := [name for name in REQUIRED_PACKAGES if find_spec(name) is None]:
        install = "pip install 'airflow-provider-kernel[emulator]'"
        print(
            f"Kernel emulator: required packages are missing: {', '.join(missing)}. Run: {install}",
            file=sys.stderr,
        )
        return 2
    try:
        return _serve(options)
    except (AppFileError, OptionError, OSError) as error:
        print(f"Kernel emulator: {str(error).removesuffix('.')}.", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    allow_many_descriptors()  # Each event stream needs one, and each active invocation two.
    variables = _app_variables(options.env, options.env_file)
    with ExitStack() as stack:
        has_key = options.api_key is not None
        key = options.api_key or DEFAULT_API_KEY
        port_in_use = None
        try:
            listener = stack.enter_context(_listen(options.host, options.port, has_key=has_key))
            address, port = listener.getsockname()[:2]
        except PortInUseError as error:
            # It is raised once the app files are checked: their errors are those that the user works on.
            port_in_use, address, port = error, options.host, options.port
        url = _url(address, port)
        environment = inherited_variables(os.environ) | variables
        environment |= {"KERNEL_BASE_URL": url, "KERNEL_API_KEY": key}
        deployments = stack.enter_context(closing(Deployments(environment, variables)))
        for label, file in options.version:
            deployments.start(file, label)
        for file in options.files:
            deployments.start(file)
        # These imports take time, and the forkservers import their apps meanwhile.
        from airflow_provider_kernel.emulator.app_files import AppFiles
        from airflow_provider_kernel.emulator.browsers.chromium import Programs
        from airflow_provider_kernel.emulator.browsers.pool import BrowserPool
        from airflow_provider_kernel.emulator.console import Console
        from airflow_provider_kernel.emulator.engine import Engine
        from airflow_provider_kernel.emulator.server import make_app
        from airflow_provider_kernel.emulator.uvicorn_server import serve

        deployments.wait()
        if port_in_use is not None:
            raise port_in_use
        console = Console(quiet=options.quiet, verbose=options.verbose)
        engine = Engine(
            deployments,
            max_concurrency=options.max_concurrency,
            sync_timeout=options.sync_timeout,
            reserialize_payloads=options.reserialize_payloads,
        )
        programs = Programs(options.chromium, options.headed)
        browsers = BrowserPool(programs, new_id, console)
        app_files = AppFiles(engine, console, reload=options.reload)
        app = make_app(
            engine,
            browsers,
            app_files,
            console=console,
            api_key=options.api_key,
            heartbeat=options.heartbeat,
            refuse=options.refuse,
            faults=FaultList(options.fault),
            served=served_hosts(options.host, address),
            url=url,
        )
        shown_key = "<the key of --api-key>" if has_key else key
        return serve(
            app,
            engine,
            browsers,
            listener,
            app_files,
            console=console,
            announcement=_announcement(url, shown_key, deployments),
            exit_with_stdin=options.exit_with_stdin,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_kernel.emulator",
        description="Serve Kernel's API on localhost and run the apps of the given files. Ctrl-C stops the emulator.",
        epilog="Apps get the variables of --env and --env-file. Of this terminal's variables they get only "
        f"{INHERITED.replace(' ', ', ')}. KERNEL_BASE_URL and KERNEL_API_KEY always refer to the emulator.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="APP",
        help="a file that defines apps: in Python (.py) with kernel.App, or in TypeScript or JavaScript (.ts, .mts, .cts, "
        ".js, .mjs, .cjs) with kernel.app of @onkernel/sdk. Node.js runs the latter: node must be on the PATH, and the SDK "
        "in the app's node_modules",
    )
    parser.add_argument(
        "--version",
        action="append",
        default=[],
        type=_version,
        metavar="NAME=FILE",
        help="serve FILE as the version NAME of the apps that it defines: an invocation with the version NAME runs it. An "
        "invocation with the version latest runs the file that is given without --version. May be repeated",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s). An address that other machines can reach requires --api-key: "
        "whoever has the key can run the apps. The Host header of a request must name this host or a loopback host, "
        "such as localhost; with 0.0.0.0 or :: it may name any host",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=8484,
        help="port to listen on; 0 picks a free port (default: %(default)s)",
    )
    parser.add_argument(
        "--api-key",
        type=_key,
        default=os.environ.get(API_KEY_VARIABLE),
        help=f"the only accepted bearer token (default: the value of the variable {API_KEY_VARIABLE}, which other users "
        "of this machine cannot see; if the variable is not set, any token is accepted)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="environment variable for the apps; without a value, the value in this terminal. May be repeated",
    )
    parser.add_argument(
        "--env-file",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="file in dotenv format with variables for the apps; --env takes precedence. May be repeated",
    )
    parser.add_argument(
        "--chromium",
        type=_program,
        metavar="PATH",
        help="the Chromium or Chrome of the browsers (default: the first that is found on the PATH, or Playwright's)",
    )
    parser.add_argument(
        "--headed",
        action="store_true",
        help="show the windows of browsers on this screen (default: on a screen of their own, if Xvfb and xdotool are "
        "installed, otherwise nowhere)",
    )
    parser.add_argument(
        "--max-concurrency",
        type=_positive(int),
        metavar="N",
        help="answer a submission with 429 while N invocations are queued or running (default: no limit)",
    )
    parser.add_argument(
        "--refuse",
        choices=REFUSALS,
        help="refuse requests as Kernel does: spending-cap answers POST with 403; insufficient-scope answers POST, PATCH "
        "and DELETE with 403; other-project answers requests that name a project with 403, and unknown-project with 404",
    )
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        type=_fault,
        metavar="FAULT",
        help="make requests fail or slow, as in 'POST /invocations status=503 rate=0.2 times=1'. A fault first selects "
        "requests: by a method and a glob for the path (default: all requests), rate=SHARE (default: 1) and times=N "
        "(default: no limit). Then it says what happens to them: latency=SECONDS before a request is handled, and one of "
        "status=STATUS with or without retry_after=SECONDS (an error in Kernel's place), lose_reply (the request takes "
        "effect, and the connection is closed without a response), cut_after=N (the connection of an event stream breaks "
        "after N events) and silent_after=N (an event stream sends nothing more after N events). May be repeated; a request "
        "has the first fault that applies to it",
    )
    parser.add_argument(
        "--reserialize-payloads",
        action="store_true",
        help="store payloads as compact JSON that is written anew (default: store them byte for byte, with white space). "
        "For tests of clients that rely on the text of a payload",
    )
    parser.add_argument(
        "--sync-timeout",
        type=_positive(float),
        default=SYNC_LIMIT_SECONDS,
        metavar="SECONDS",
        help="time limit of a synchronous invocation (default: %(default)s, as on Kernel)",
    )
    parser.add_argument(
        "--heartbeat",
        type=_positive(float),
        default=15.0,
        metavar="SECONDS",
        help="time without an event after which an event stream sends a heartbeat (default: %(default)s)",
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="import an app file again for the next invocation if the file, or a module of its folder that it imports, has "
        "changed (default: say that it has changed). If the import fails, the version from before stays",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--quiet",
        action="store_true",
        help="print only how clients find the emulator, and errors (default: also invocations with their logs, and refused "
        "requests; never payloads)",
    )
    amount.add_argument("--verbose", action="store_true", help="print each request too")
    parser.add_argument(
        "--exit-with-stdin",
        action="store_true",
        help="stop when standard input ends, as it does when the parent process ends",
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
    # Python passes larger numbers on, and the system uses the remainder of a division by 65,536.
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _program(text: str) -> str:
    path = shutil.which(text)
    if path is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a program")
    return path


def _version(text: str) -> tuple[str, Path]:
    label, _, file = text.partition("=")
    if not (label and file):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE, such as 2=shop_v2.py")
    if not label.isprintable() or label != label.strip():
        raise argparse.ArgumentTypeError(
            f"{label!r} is not a label: use printable text without spaces around it"
        )
    if label in ("latest", VERSION_LABEL):
        raise argparse.ArgumentTypeError(
            f"the label {label!r} is that of files without --version: give {file!r} as APP, or use another label"
        )
    return label, Path(file)


def _key(text: str) -> str:
    # No client can send such a token, so that each request would be refused. An unset shell variable gives an empty one.
    if not text.isascii() or not text.isprintable() or text != text.strip() or not text:
        raise argparse.ArgumentTypeError("not a token; a token is ASCII text without spaces around it")
    return text


def _app_variables(options: Sequence[str], files: Sequence[Path]) -> dict[str, str]:
    """Return the variables that the user gives the apps."""
    variables: dict[str, str] = {}
    for file in files:
        try:
            variables |= read_env_file(file.read_text(encoding="utf-8-sig", errors="surrogateescape"))
        except (OptionError, OSError) as error:
            raise OptionError(f"--env-file {file}: {getattr(error, 'strerror', error)}") from None
    return variables | dict(read_option(option, os.environ) for option in options)


class PortInUseError(OSError):
    """Another process listens on the port."""


def _listen(host: str, port: int, *, has_key: bool) -> socket.socket:
    """
    Return a listening socket. It exists before the apps are imported, so that no other process takes the port.

    :raises PortInUseError: another process listens on the port.
    :raises OSError: the host or the port is not this machine's or this user's.
    :raises OptionError: other machines can reach the host, and there is no key.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if not (has_key or is_loopback(str(address[0]))):
            raise OptionError(
                f"--host {host} lets other machines run the apps: set --api-key to the token that they must send"
            )
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} of {host} is in use: stop what listens there, or choose another with --port"
            ) from None
        reason = str(error.strerror).partition(" (")[0]
        raise OSError(f"cannot listen on {host} port {port}: {reason}") from None
    # asyncio sets this option only for connections of sockets that asyncio created.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(address: str, port: int) -> str:
    """Return the server's URL on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not listened on
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announcement(url: str, key: str, deployments: Deployments) -> str:
    return "\n".join(
        [
            f"Kernel emulator on {url}",
            *(
                f"{app.name}{deployments.version_note(app)}: {', '.join(app.actions)}"
                for app in deployments.apps
            ),
            f"For the SDK: KERNEL_BASE_URL={url} KERNEL_API_KEY={shlex.quote(key)}",
            f"For Airflow: AIRFLOW_CONN_KERNEL_DEFAULT={shlex.quote(airflow_connection(url, key))}",
            f"In a browser: {url}/",
        ]
    )


def _open_closed_streams() -> None:
    """Open the standard streams that are closed: a socket must not get their numbers, and libraries write to them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115 - it gets the lowest free number
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


if __name__ == "__main__":
    _open_closed_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell has it for what runs in its background
            # Until uvicorn sets its own handler. KeyboardInterrupt would not do: if it is raised within an exec(), as
            # that of a dataclass, Python ends the process by SIGINT although it was caught.
            signal.signal(number, lambda *_: sys.exit(0))
    sys.exit(main())
