"""``python -m tests.system.chaos``: see the package."""

from __future__ import annotations

import argparse
import json
import random
import sys

from dev.processes import REPOSITORY
from tests.system.chaos.plan import make_plan
from tests.system.chaos.run import Result, carry_out, judged


def main() -> int:
    """Return 1 if there is something that somebody could have prevented."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="of chaos; the wait until all is over comes on top. Default: 10",
    )
    parser.add_argument(
        "--arguments", type=json.loads, help="JSON, more arguments of all operators: to break them"
    )
    parser.add_argument("--again", action="store_true", help="only judge the last run again")
    options = parser.parse_args()
    folder = REPOSITORY / ".run" / "chaos"
    if options.again:
        return told(judged(folder))
    seed = random.randrange(10_000) if options.seed is None else options.seed

    say(f"The seed is {seed}.")
    return told(carry_out(make_plan(seed, options.minutes * 60), folder, say, options.arguments))


def told(result: Result) -> int:
    """Print what came of it; return the exit status."""
    say(result.text)
    return 1 if result.defects else 0


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
