"""What can go wrong with a request on its way through a :class:`~tests.faulty.FaultyProxy`."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPResponse
from itertools import chain, islice
from typing import Any

from tests.faulty import Ends, Exchange, Fault, Plan, body_of


def _events(reply: HTTPResponse) -> Iterator[bytes]:
    rest = b""
    for piece in body_of(reply):
        *whole, rest = (rest + piece).split(b"\n\n")
        yield from (event + b"\n\n" for event in whole)


def drop_request() -> Fault:
    """The request never arrives; the client cannot know."""
    return Fault("drop_request", lambda ends: ends.cut())


def drop_reply(reset: bool = False) -> Fault:
    """The request arrives and takes effect; its whole reply is lost."""

    def act(ends: Ends) -> None:
        ends.forward().read()
        ends.cut(reset)

    return Fault("drop_reply", act)


def answer(
    status: int, body: Any = None, headers: Mapping[str, str] | None = None, *, after: bool = False
) -> Fault:
    """
    Answer ``status`` in Kernel's place; with ``after``, once the request has taken effect.

    :param body: JSON, or bytes (HTML, unless the headers say otherwise); None: an error such as Kernel's.
    """
    kind = "text/html" if isinstance(body, bytes) else "application/json"
    body = {"code": "injected", "message": "injected by the faulty proxy"} if body is None else body
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def act(ends: Ends) -> None:
        if after:
            ends.forward().read()
        ends.answer(status, {"Content-Type": kind, **(headers or {})}, content)

    return Fault(f"answer{'_after' if after else ''} {status}", act)


def html(status: int, *, after: bool = False) -> Fault:
    """Answer as a proxy on the way does."""
    return answer(status, b"<html><body>Bad gateway</body></html>", after=after)


def delay(seconds: float, *, reply: bool = False) -> Fault:
    """Let the request come late; with ``reply``, the reply."""

    def act(ends: Ends) -> None:
        if not reply:
            ends.pause(seconds)
        answered = ends.forward()
        if reply:
            ends.pause(seconds)
        ends.pass_on(answered)

    return Fault("delay", act)


def trickle(seconds: float) -> Fault:
    """Pass the reply's body on byte by byte, so many seconds apart."""

    def slowly(ends: Ends, reply: HTTPResponse) -> Iterator[bytes]:
        for byte in chain.from_iterable(body_of(reply)):
            ends.pause(seconds)
            yield bytes([byte])

    return Fault("trickle", lambda ends: ends.pass_on(reply := ends.forward(), slowly(ends, reply)))


def cut_after(*, events: int | None = None, size: int = 0, reset: bool = False) -> Fault:
    """Break a reply off after so many events, or else after ``size`` bytes of its body."""

    def broken(ends: Ends, reply: HTTPResponse) -> Iterator[bytes]:
        yield from islice(_events(reply), events) if events is not None else [reply.read(size)] * bool(size)
        ends.cut(reset)

    return Fault("cut_after", lambda ends: ends.pass_on(reply := ends.forward(), broken(ends, reply)))


def half_open(*, events: int = 0) -> Fault:
    """After so many events nothing comes any more; the connection stays until its client leaves."""

    def silent(ends: Ends, reply: HTTPResponse) -> Iterator[bytes]:
        yield from islice(_events(reply), events)
        ends.close()
        ends.wait_for_client_to_leave()
        ends.cut()

    return Fault("half_open", lambda ends: ends.pass_on(reply := ends.forward(), silent(ends, reply)))


#: What is no event, or none that is known, and what says too little, too much, or something of another invocation.
NOISE = (
    b"data: {\n\n",
    b"data: []\n\n",
    b'data: {"event": "log"}\n\n',
    b'data: {"event": "party", "timestamp": "x"}\n\n',
    b'data: {"event": "invocation_state", "invocation": {"status": "succeeded"}}\n\n',
    b'data: {"event": "error", "error": "what"}\n\n',
    b": comment\n\n",
    b"event: log\nid: 7\nretry: 1\n\n",
    b"\xff\xfe\x00\n\n",
    b'data: {"event": "log", "timestamp": "x", "message": "' + b"x" * 1_100_000 + b'"}\n\n',
)


def garble(noise: Sequence[bytes] = NOISE) -> Fault:
    """Put ``noise`` before every event of a stream."""

    def act(ends: Ends) -> None:
        reply = ends.forward()
        ends.pass_on(reply, (b"".join(noise) + event for event in _events(reply)))

    return Fault("garble", act)


def hold(*, forward: bool) -> Fault:
    """
    Hold the request, or with ``forward`` the reply to it, until the test says ``rule.release()``.

    ``rule.wait_until_held()`` returns when it is there: in the middle of the request.
    """

    def act(ends: Ends) -> None:
        if not forward:
            ends.hold()
        reply = ends.forward()
        if forward:
            ends.hold()
        ends.pass_on(reply)

    return Fault("hold", act)


def refuse(seconds: float) -> Fault:
    """With this request the API goes down for so long; see :meth:`FaultyProxy.go_down`."""

    def act(ends: Ends) -> None:
        ends.proxy.go_down()
        timer = threading.Timer(seconds, ends.proxy.come_up)
        timer.daemon = True
        timer.start()

    return Fault("refuse", act)


def random_plan(seed: int, weights: Mapping[str, Mapping[Fault, float]]) -> Plan:
    """
    Return a plan that draws a fault for each request, from the seed and the request's number alone.

    :param weights: for each route the probabilities of faults; what they leave of 1 is a request that passes.
    """

    def plan(exchange: Exchange, number: int) -> Fault | None:
        faults = next((faults for route, faults in weights.items() if exchange.is_of(route)), {})
        luck = random.Random(f"{seed} {number}").random()
        for fault, weight in faults.items():
            luck -= weight
            if luck < 0:
                return fault
        return None

    return plan
