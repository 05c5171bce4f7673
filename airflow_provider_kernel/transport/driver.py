"""The two loops that carry out conversations with Kernel: with requests, and with aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from airflow_provider_kernel.api.endpoints import Request
from airflow_provider_kernel.api.errors import KernelError
from airflow_provider_kernel.lifecycle.conversation import Conversation, Follow

T = TypeVar("T")


def drive(
    conversation: Conversation[T], send: Callable[[Request[Any]], Any], follow: Callable[[Follow], None]
) -> T:
    """
    Carry out a conversation.

    :param conversation: yields steps, and is sent the replies or has the errors thrown in.
    :param send: sends a request and returns the reply's result.
    :param follow: follows an event stream to its end.
    :return: what the conversation returns.
    :raises KernelError: what the conversation raises.
    """
    result: Any = None
    error: KernelError | None = None
    while True:
        try:
            step = conversation.throw(error) if error else conversation.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        result = error = None
        try:
            if isinstance(step, Request):
                result = send(step)
            elif isinstance(step, Follow):
                follow(step)
            else:
                time.sleep(step.seconds)
        except KernelError as failure:
            error = failure


async def adrive(
    conversation: Conversation[T],
    send: Callable[[Request[Any]], Awaitable[Any]],
    follow: Callable[[Follow], Awaitable[None]],
) -> T:
    """As :func:`drive`, in an event loop."""
    result: Any = None
    error: KernelError | None = None
    while True:
        try:
            step = conversation.throw(error) if error else conversation.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        result = error = None
        try:
            if isinstance(step, Request):
                result = await send(step)
            elif isinstance(step, Follow):
                await follow(step)
            else:
                await asyncio.sleep(step.seconds)
        except KernelError as failure:
            error = failure
