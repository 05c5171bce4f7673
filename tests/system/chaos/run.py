"""Carries a plan out on a world of its own, waits until all is over, and judges."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from airflow_provider_kernel.testing import KernelEmulator
from dev.airflow_stack import NOTICE_DEATHS_SOON, AirflowStack
from dev.postgres import Postgres
from dev.processes import RunFolder
from dev.wait import wait_until
from tests.faults import random_plan
from tests.faulty import FaultyProxy
from tests.system.chaos import report
from tests.system.chaos.audit import Audit
from tests.system.chaos.history import History
from tests.system.chaos.judge import Finding, judge
from tests.system.chaos.monkey import Monkey
from tests.system.chaos.plan import DAGS, FAULTS, Plan
from tests.system.chaos.watch import Invocations, collect, log_lines

HERE = Path(__file__).parent
TOKEN = "sk_chaos"
#: Fewer than there are tasks at times, so that some have to wait.
MAX_CONCURRENCY = 8
#: Seconds within which all Dag runs end once nothing disturbs them; what has not by then is stuck.
SETTLING = 420
#: Seconds within which an invocation ends by itself: ``async_timeout_seconds`` of the Dags, or an action's longest.
LONGEST = 190
#: What a run leaves in its folder, to be judged again.
HISTORY = "history.pickle"
#: Seconds between two looks at the emulator's list.
LOOK_PAUSE = 10.0


@dataclass
class Result:
    """What came of a chaos run."""

    history: History
    findings: list[Finding]
    text: str

    @property
    def defects(self) -> list[Finding]:
        """What somebody could have prevented."""
        return [finding for finding in self.findings if finding.excuse is None]


def carry_out(
    plan: Plan,
    folder: Path,
    say: Callable[[str], None] = print,
    arguments: Mapping[str, Any] | None = None,
) -> Result:
    """
    Carry the plan out.

    :param folder: everything is written there; it is emptied first.
    :param say: is told how it goes.
    :param arguments: more arguments of all operators, which may break them.
    """
    with ExitStack() as stack:
        run_folder = stack.enter_context(RunFolder(folder))
        app = HERE / "app.py"
        emulator = stack.enter_context(KernelEmulator([app], api_key=TOKEN, max_concurrency=MAX_CONCURRENCY))
        proxy = stack.enter_context(FaultyProxy(emulator.base_url))
        postgres = stack.enter_context(Postgres(run_folder.path / "postgres"))
        env = {**NOTICE_DEATHS_SOON, "CHAOS_ARGUMENTS": json.dumps(arguments or {})}
        airflow = stack.enter_context(
            AirflowStack(
                run_folder.path / "airflow",
                [HERE / "dags"],
                env=env,
                database_url=postgres.url,
                triggerers=2,
            )
        )
        airflow.api.add_kernel_connection("kernel_default", proxy.base_url, TOKEN)
        audit = Audit(postgres.url)
        stack.callback(audit.close)
        wait_until(lambda: set(DAGS) <= airflow.api.dag_ids(), 90, "the Dags are read")
        say(f"Chaos of {plan.seconds:.0f} s, seed {plan.seed}.")
        monkey, invocations = Monkey(airflow, audit), Invocations(emulator)
        proxy.plan = random_plan(plan.seed, FAULTS)
        _disturb(plan, monkey, invocations)
        proxy.plan = None
        monkey.finish()
        say("Nothing is disturbed any more.")
        _wait_for_all(audit, invocations, say)
        history = collect(airflow.api, audit, monkey, invocations, list(proxy.exchanges))
        faults = sum(exchange.did != "pass" for exchange in proxy.exchanges)
        done = [*(one for _, one in monkey.to_tasks.values() if one.component is None), *monkey.outages]
        heads = [
            f"seed {plan.seed}, {plan.seconds:.0f} s",
            f"Deeds: {report.deeds(done)}; {monkey.skipped} found nobody.",
            f"Requests: {len(proxy.exchanges)}, {faults} of them went wrong.",
        ]
        (folder / HISTORY).write_bytes(pickle.dumps((heads, history)))
    return judged(folder)


def judged(folder: Path) -> Result:
    """Judge the run that was carried out last in this folder."""
    heads, history = pickle.loads((folder / HISTORY).read_bytes())
    findings = judge(history)
    log = partial(log_lines, folder / "airflow")
    everything = report.stories(history, findings, log, of_all=True)
    (folder / "stories.txt").write_text("\n\n".join(everything))
    parts = [*heads, "", *report.stories(history, findings, log), "", report.table(history, findings)]
    return Result(history, findings, "\n".join(parts))


def _disturb(plan: Plan, monkey: Monkey, invocations: Invocations) -> None:
    begun = time.time()
    todo: list[tuple[float, Callable[[], object]]] = []
    for start in plan.starts:
        todo.append((start.at, lambda start=start: monkey.start(start.dag_id, start.conf)))  # type: ignore[misc]
    for deed in plan.deeds:
        todo.append((deed.at, lambda deed=deed: monkey.act(deed)))  # type: ignore[misc]
    todo.append((plan.seconds, lambda: None))
    look_at = 0.0
    for at, do in sorted(todo, key=lambda one: one[0]):
        while (left := begun + at - time.time()) > 0:
            monkey.run_due()
            if time.time() >= look_at:
                invocations.look()
                look_at = time.time() + LOOK_PAUSE
            time.sleep(max(min(left, monkey.next_due() - time.time(), 0.5), 0.01))
        monkey.run_due()
        do()


def _wait_for_all(audit: Audit, invocations: Invocations, say: Callable[[str], None]) -> None:
    def ended() -> bool:
        invocations.look()
        return not audit.unfinished()

    try:
        wait_until(ended, SETTLING, "all Dag runs have ended", interval=2)
    except TimeoutError as error:
        say(f"{error}: {audit.unfinished()}")

    def nothing_active() -> bool:
        invocations.look()
        return not invocations.active()

    try:
        wait_until(nothing_active, LONGEST, "no invocation is active", interval=2)
    except TimeoutError as error:
        say(f"{error}: {invocations.active()}")
