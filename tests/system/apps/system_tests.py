"""The app that the system tests invoke."""

import json
import time
from pathlib import Path

import kernel

app = kernel.App("system-tests")


@app.action("talk")
def talk(ctx, payload):
    """Print lines, one each second, and return what it was given."""
    for number in range(1, payload["lines"] + 1):
        print(f"line {number}")
        time.sleep(1)
    return payload


@app.action("fail")
def fail(ctx, payload):
    """Raise."""
    print("about to fail")
    time.sleep(payload["after"])
    raise ValueError("the shelf is empty")


@app.action("until_told")
def until_told(ctx, payload):
    """Last until the test makes the file."""
    print("started")
    while not Path(payload["end"]).exists():
        time.sleep(0.05)
    return {"run": payload["run"]}


@app.action("decode")
def decode(ctx, payload):
    """Return what the JSON text says."""
    return json.loads(payload["json"])
