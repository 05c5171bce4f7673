"""What is to happen in a chaos run, from its seed alone. No I/O."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests import faults
from tests.faulty import Fault

#: The Dags of ``dags/chaos.py``, and how many tasks a run of each has.
DAGS = {
    "deferred": 1,
    "deferred_mapped": 3,
    "deferred_by_default": 1,
    "on_worker": 1,
    "on_worker_mapped": 3,
    "on_worker_by_default": 1,
    "in_one_call": 1,
}
#: How often each is run, relative to the others.
DAG_WEIGHTS = (4, 2, 2, 2, 1, 1, 1)
#: Seconds between two Dag runs, and between two deeds, on average: what two cores can take.
RUN_PAUSE, DEED_PAUSE = 4.5, 2.5
#: Nothing is killed before there is something to kill.
QUIET_START = 8.0

#: What is done to whom, how often relative to the others, and the shortest and longest time in seconds that it
#: lasts: until it is thawed or started again.
DEEDS: Mapping[str, tuple[float, float, float]] = {
    "kill task": (5, 0, 0),
    "terminate task": (5, 0, 0),
    "freeze task": (4, 1, 20),
    "kill supervisor": (3, 0, 0),
    "terminate supervisor": (3, 0, 0),
    "freeze worker": (5, 1, 28),  # the task and its supervisor, as when their machine is suspended
    "kill triggerer": (2.5, 0, 6),
    "terminate triggerer": (1.5, 0, 6),
    "freeze triggerer": (2.5, 2, 18),
    "kill scheduler": (0.8, 0, 3),  # with its workers
    "kill scheduler alone": (0.8, 0, 3),
    "terminate scheduler": (0.7, 5, 8),
    "freeze scheduler": (1, 2, 15),
    "clear": (13, 0, 0),
    "mark failed": (7, 0, 0),
    "mark success": (5, 0, 0),
}
#: The components that a deed is done to.
COMPONENTS = {"triggerer": ("triggerer", "triggerer-2"), "scheduler": ("scheduler",)}


@dataclass(frozen=True)
class Start:
    """A Dag run: when, in seconds since the beginning, and its conf."""

    at: float
    dag_id: str
    conf: Mapping[str, Any]


@dataclass(frozen=True)
class Deed:
    """
    Something that is done to a component or to a task.

    :param at: when, in seconds since the beginning.
    :param kind: of :data:`DEEDS`.
    :param pick: from 0 to 1: which of those that are there at that time.
    :param prefers_ended: whether a user's deed is to a task that has ended.
    :param seconds: how long it lasts.
    """

    at: float
    kind: str
    pick: float
    prefers_ended: bool
    seconds: float


@dataclass(frozen=True)
class Plan:
    """All that is to happen, in the order of time."""

    seed: int
    seconds: float
    starts: tuple[Start, ...]
    deeds: tuple[Deed, ...]


def make_plan(seed: int, seconds: float) -> Plan:
    """Return the plan of so many seconds."""
    return Plan(seed, seconds, _starts(seed, seconds), _deeds(seed, seconds))


def _starts(seed: int, seconds: float) -> tuple[Start, ...]:
    luck = random.Random(f"{seed} starts")
    starts, at = [], 0.0
    while at < seconds:
        dag_id = luck.choices(list(DAGS), DAG_WEIGHTS)[0]
        conf = {
            "seconds": [_duration(luck) for _ in range(DAGS[dag_id])],
            "fails": luck.choices(("never", "sometimes", "always"), (88, 9, 3), k=DAGS[dag_id]),
        }
        starts.append(Start(at, dag_id, conf))
        at += luck.expovariate(1 / RUN_PAUSE)
    return tuple(starts)


def _duration(luck: random.Random) -> float:
    """Most actions are short; some last long enough to be seen running when nobody waits for them any more."""
    return round(luck.uniform(30, 60) if luck.random() < 0.15 else luck.uniform(1, 20), 1)


def _deeds(seed: int, seconds: float) -> tuple[Deed, ...]:
    luck = random.Random(f"{seed} deeds")
    weights = [weight for weight, _, _ in DEEDS.values()]
    deeds = []
    at = QUIET_START + luck.expovariate(1 / DEED_PAUSE)
    while at < seconds:
        kind = luck.choices(list(DEEDS), weights)[0]
        _, shortest, longest = DEEDS[kind]
        deeds.append(Deed(at, kind, luck.random(), luck.random() < 0.25, luck.uniform(shortest, longest)))
        at += luck.expovariate(1 / DEED_PAUSE)
    return tuple(deeds)


#: A stream is also cut, silent, or full of noise.
_STREAM = {faults.cut_after(events=count): 0.04 for count in (0, 1, 2, 3)}
_STREAM |= {faults.half_open(events=1): 0.05, faults.garble(): 0.05, faults.html(502): 0.05}
_STREAM |= {faults.answer(503): 0.03, faults.answer(429, headers={"Retry-After": "2"}): 0.04}


def _request(scale: float) -> dict[Fault, float]:
    too_many = {"Retry-After": "2"}
    weights = {
        faults.drop_request(): 0.02,
        faults.drop_reply(): 0.05,
        faults.drop_reply(reset=True): 0.03,
        faults.cut_after(size=20): 0.02,
        faults.answer(500): 0.01,
        faults.answer(503): 0.01,
        faults.html(502): 0.01,
        faults.answer(500, after=True): 0.03,
        faults.html(504, after=True): 0.03,
        faults.answer(429, headers=too_many): 0.04,
        faults.delay(2): 0.03,
        faults.delay(4, reply=True): 0.04,
        faults.refuse(1): 0.01,
    }
    return {fault: weight * scale for fault, weight in weights.items()}


#: The faults of :func:`tests.faults.random_plan`. A request that was never accepted costs a minute of looking for it.
FAULTS: Mapping[str, Mapping[Fault, float]] = {
    "POST /invocations": _request(1),
    "GET /invocations": _request(0.5),
    "GET /invocations/{id}": _request(0.5),
    "GET /invocations/{id}/events": _STREAM,
    "PATCH /invocations/{id}": _request(0.7),
    "DELETE /invocations/{id}/browsers": _request(0.5),
}
