"""
The worker of a Python app: the process that runs one action.

Choices where Kernel's behaviour is unknown:

- An action that takes a payload fails if it is invoked without one, as in the SDK.
- A returned value that ``json.dumps`` refuses, such as NaN, fails the invocation, and so does an output of more than
  16 MiB.
- The output of an action that raises is plain text, not JSON, and is cut after 64 KiB.
- ``sys.exit()`` fails the invocation, whatever the exit status.
- Threads and processes that are left when the action returns are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernel.app_framework import KernelApp

#: Maximum characters of an output, as JSON text.
MAX_OUTPUT = 16 * 2**20
#: Maximum characters of an exception's text; the rest is cut.
MAX_ERROR = 64 * 2**10


def work(link: socket.socket, request: dict[str, Any], apps: dict[str, KernelApp]) -> None:
    """
    Run an action in this process, and send its answer to the server.

    :param link: the socket to the server.
    :param request: ``id``, ``app_name``, ``action_name`` and ``payload`` of the invocation.
    :param apps: the apps of the imported file, by name.
    """
    # A process that the action forks must neither answer for the worker nor keep the link open.
    os.register_at_fork(after_in_child=link.close)
    faulthandler.enable(2)
    if not logging.root.handlers:
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Otherwise it logs each call of the SDK.
    answer = _answer(request, apps)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # The action may have closed or replaced the stream.
            stream.flush()
    link.sendall(json.dumps(answer).encode())


def _answer(request: dict[str, Any], apps: dict[str, KernelApp]) -> dict[str, Any]:
    """
    Run the action; return its answer.

    :return: ``output`` (JSON text) if the action returned; otherwise ``reason``, with ``output`` (plain text) if the
        action raised.
    """
    from kernel.app_framework import KernelContext

    action = apps[request["app_name"]].actions[request["action_name"]]
    arguments: list[Any] = [KernelContext(invocation_id=request["id"])]
    if request["payload"] is not None:
        arguments.append(json.loads(request["payload"]))
    try:
        result = action.handler(*arguments)
        if isinstance(result, Awaitable):
            result = asyncio.run(_await(result))
    except BaseException as error:  # noqa: BLE001 - sys.exit() and cancellation are the action's failures too
        with contextlib.suppress(Exception):  # The action may have closed the stream.
            _print_traceback(error)
        text = "".join(traceback.format_exception_only(error)).strip()
        return {"reason": "The action raised an exception.", "output": text[:MAX_ERROR]}
    try:
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
    except Exception as error:  # noqa: BLE001 - what the action returned may have methods of its own
        return {"reason": f"The action returned a value that is not JSON: {error}."}
    if len(text) > MAX_OUTPUT:
        return {"reason": f"The action returned more than {MAX_OUTPUT // 2**20} MiB."}
    return {"output": text}


async def _await(result: Awaitable[Any]) -> Any:
    return await result


def _print_traceback(error: BaseException) -> None:
    """Print the traceback from the action's first frame on, without the frames of the emulator and the SDK."""
    hidden = (__file__, sys.modules["kernel.app_framework"].__file__)
    start, current = error.__traceback__, error.__traceback__
    while current is not None:
        if current.tb_frame.f_code.co_filename in hidden and current.tb_next is not None:
            start = current.tb_next
        current = current.tb_next
    traceback.print_exception(type(error), error, start)
