"""The app whose ends are watched; nothing but the test of that starts it."""

import time
from pathlib import Path

import kernel

app = kernel.App("watched")


@app.action("work")
def work(ctx, payload):
    """Last for so many seconds, or until there is a file; fail if told so."""
    time.sleep(payload.get("seconds", 0))
    while "until" in payload and not Path(payload["until"]).exists():
        time.sleep(0.05)
    if payload.get("fail"):
        raise ValueError("as told")
    return {"secret": "of the output"}


@app.action("rest")
def rest(ctx, payload):
    """Return."""
