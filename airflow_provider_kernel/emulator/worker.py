"""
The process in which one action runs.

Choices where Kernel's behaviour is unknown: an action that takes a payload and is invoked without one fails, as
the SDK has it; what ``json.dumps`` refuses, NaN included, is a failure, and so is an output of more than 16 MiB;
a failed action's output is plain text, not JSON, and cut after 64 KiB; ``sys.exit()`` is a failure whatever its
status; threads and processes that outlive the action's return are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_kernel.emulator.process_control import (
    die_first_when_memory_is_short,
    signal_on_parent_death,
)

if TYPE_CHECKING:
    from kernel.app_framework import KernelApp

#: Largest output, in characters of JSON text.
MAX_OUTPUT = 16 * 2**20
#: An exception's text is cut after so many characters.
MAX_ERROR = 64 * 2**10


def work(link: socket.socket, output: int, request: dict[str, Any], apps: dict[str, KernelApp]) -> NoReturn:
    """Run the action that ``request`` names, send the answer, and end this process."""
    try:
        _prepare(link, output)
        answer = _answer(request, apps)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # the action may have closed or replaced them
                stream.flush()
        link.sendall(json.dumps(answer).encode())
    except BaseException:  # noqa: BLE001 - a forked process must never return into its parent's code
        traceback.print_exc()
    finally:
        os._exit(0)


def _prepare(link: socket.socket, output: int) -> None:
    signal_on_parent_death(signal.SIGKILL)
    die_first_when_memory_is_short()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    # A process that the action forks must neither answer in its place nor keep the server waiting for the end.
    os.register_at_fork(after_in_child=link.close)
    faulthandler.enable(2)
    if not logging.root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


def _answer(request: dict[str, Any], apps: dict[str, KernelApp]) -> dict[str, Any]:
    """Return ``output`` (JSON text), or ``reason`` and, where the action raised, ``output`` (plain text)."""
    from kernel.app_framework import KernelContext

    action = apps[request["app_name"]].actions[request["action_name"]]
    arguments: list[Any] = [KernelContext(invocation_id=request["id"])]
    if request["payload"] is not None:
        arguments.append(json.loads(request["payload"]))
    try:
        result = action.handler(*arguments)
        if isinstance(result, Awaitable):
            result = asyncio.run(_wait_for(result))
    except BaseException as error:  # noqa: BLE001 - sys.exit() and cancellation are the action's failures too
        with contextlib.suppress(Exception):  # there may be no stream to write it to
            _print_traceback(error)
        text = "".join(traceback.format_exception_only(error)).strip()
        return {"reason": "The action raised an exception.", "output": text[:MAX_ERROR]}
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - what the action returned may have methods of its own
        return {"reason": f"The action returned what is not JSON: {error}."}
    if len(text) > MAX_OUTPUT:
        return {"reason": f"The action returned more than {MAX_OUTPUT // 2**20} MiB."}
    return {"output": text}


async def _wait_for(result: Awaitable[Any]) -> Any:
    return await result


def _print_traceback(error: BaseException) -> None:
    """Print the traceback from the action's own first frame on, as if nothing had called it."""
    ours = (__file__, sys.modules["kernel.app_framework"].__file__)
    start, current = error.__traceback__, error.__traceback__
    while current is not None:
        if current.tb_frame.f_code.co_filename in ours and current.tb_next is not None:
            start = current.tb_next
        current = current.tb_next
    traceback.print_exception(type(error), error, start)
