"""The app ``tests``: one action for each way in which an invocation can go."""

import asyncio
import ctypes
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from typing import Any

import kernel

app = kernel.App("tests")


@app.action("echo")
def echo(ctx: kernel.KernelContext, payload: Any) -> Any:
    """Return the payload."""
    return payload


@app.action("async_echo")
async def async_echo(ctx: kernel.KernelContext, payload: Any) -> Any:
    """Return the payload, as a coroutine."""
    await asyncio.sleep(0)
    return payload


@app.action("no_payload")
def no_payload(ctx: kernel.KernelContext) -> dict[str, str]:
    """Return the invocation's id."""
    return {"invocation_id": ctx.invocation_id}


@app.action("minute")
def minute(ctx: kernel.KernelContext) -> None:
    """Wait a minute; takes no payload."""
    time.sleep(60)


@app.action("sleep")
def sleep(ctx: kernel.KernelContext, payload: dict[str, float]) -> float:
    """Print ``sleeping``, wait ``seconds`` and return them."""
    print("sleeping")
    time.sleep(payload["seconds"])
    return payload["seconds"]


@app.action("logs")
async def logs(ctx: kernel.KernelContext, payload: dict[str, float]) -> int:
    """Print ``n`` lines (``line 0`` and on), ``delay`` seconds (default 0) after one another; return ``n``."""
    for number in range(int(payload["n"])):
        print(f"line {number}")
        if delay := payload.get("delay"):
            await asyncio.sleep(delay)
    return int(payload["n"])


@app.action("long_lines")
def long_lines(ctx: kernel.KernelContext, payload: dict[str, int]) -> None:
    """Print ``n`` lines of 60,000 characters."""
    for _ in range(payload["n"]):
        print("x" * 60_000)


@app.action("fail")
def fail(ctx: kernel.KernelContext, payload: dict[str, str]) -> None:
    """Raise ValueError with ``message``."""
    raise ValueError(payload["message"])


@app.action("exit")
def exit_(ctx: kernel.KernelContext, payload: dict[str, int]) -> None:
    """End the process with ``code``, or by ``signal``, without a word."""
    if "signal" in payload:
        os.kill(os.getpid(), payload["signal"])
    os._exit(payload["code"])


@app.action("segfault")
def segfault(ctx: kernel.KernelContext) -> None:
    """Read what is not there."""
    ctypes.string_at(0)


@app.action("spawn")
def spawn(ctx: kernel.KernelContext, payload: dict[str, float]) -> list[int]:
    """
    Start processes that want to outlive the invocation: a child, one in a session of its own, and a daemon
    (forked twice) that holds the output. Print and return their pids, after ``seconds``.
    """
    pids = [
        os.getpid(),
        subprocess.Popen(["sleep", "600"]).pid,
        subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL).pid,
        _daemon(),
    ]
    print("pids", *pids)
    time.sleep(payload["seconds"])
    return pids


def _daemon() -> int:
    receiving, sending = os.pipe()
    if child := os.fork():
        os.waitpid(child, 0)
        return int(os.read(receiving, 32))
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.write(sending, str(os.getpid()).encode())
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)


@app.action("big")
def big(ctx: kernel.KernelContext, payload: dict[str, int]) -> str:
    """Return ``n`` characters."""
    return "x" * payload["n"]


@app.action("noise")
def noise(ctx: kernel.KernelContext, payload: Any) -> None:
    """Print what is hard to print: no UTF-8, a line of 100,000 bytes, an empty line, no newline at the end."""
    sys.stdout.buffer.write(b"caf\xe9\n")
    print("y" * 100_000)
    print()
    print("to stderr", file=sys.stderr)
    logging.getLogger("app").info("an info record")
    logging.getLogger("app").debug("a debug record")
    print("\ud800 half a pair", flush=True)
    sys.stdout.write("no newline")


@app.action("decode")
def decode(ctx: kernel.KernelContext, payload: str) -> Any:
    """Return what the JSON says that it is given as text."""
    return json.loads(payload)


@app.action("env")
def env(ctx: kernel.KernelContext) -> dict[str, Any]:
    """Return where the SDK would go, and what it finds there."""
    listed = kernel.Kernel().invocations.retrieve(ctx.invocation_id)
    return {
        "KERNEL_BASE_URL": os.environ["KERNEL_BASE_URL"],
        "KERNEL_API_KEY": os.environ["KERNEL_API_KEY"],
        "status": listed.status,
    }


@app.action("unjson")
def unjson(ctx: kernel.KernelContext, payload: str) -> Any:
    """Return what JSON cannot hold: ``set``, ``nan``, a list that contains ``itself``, or that ``raises``."""

    class Raising(list[Any]):
        def __iter__(self) -> Any:
            raise OSError("the database is gone")

    itself: list[Any] = []
    itself.append(itself)
    return {"set": {1}, "nan": float("nan"), "itself": itself, "raises": Raising([1])}[payload]


@app.action("orphan")
def orphan(ctx: kernel.KernelContext) -> None:
    """Kill the process above this one, and go on."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


@app.action("rewrap")
def rewrap(ctx: kernel.KernelContext) -> None:
    """Print through a wrapper of one's own around the standard output, as scripts that want UTF-8 do."""
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8")
    print("rewrapped")


@app.action("mute")
def mute(ctx: kernel.KernelContext, payload: dict[str, bool]) -> int:
    """Close the standard streams, and what is below them; then ``fail``, or return 1."""
    print("before")
    for number, stream in enumerate((sys.stdout, sys.stderr), 1):
        stream.close()
        os.close(number)
    if payload["fail"]:
        raise ValueError("after the streams are closed")
    return 1


@app.action("fork")
def fork(ctx: kernel.KernelContext) -> str:
    """Return in a forked process too."""
    if child := os.fork():
        os.waitpid(child, 0)
        return "parent"
    return "child"


@app.action("orphan_fork")
def orphan_fork(ctx: kernel.KernelContext) -> None:
    """Kill the process above this one while a forked process goes on, which prints more than a pipe holds."""
    if os.fork() == 0:
        os.setsid()
        while True:
            os.write(1, b"x" * 65_536)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
