"""The app that the chaos run invokes."""

import time

import kernel

app = kernel.App("chaos")


@app.action("work")
def work(ctx, payload):
    """Take ``seconds``; then return whose work this was, or raise if ``fails`` says so: never, always, sometimes."""
    end = time.monotonic() + float(payload["seconds"])
    print("started")
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 2))
        print("working")
    if payload["fails"] == "always" or (payload["fails"] == "sometimes" and hash(ctx.invocation_id) % 2):
        raise ValueError("the shelf is empty")
    return {"name": payload["name"], "invocation_id": ctx.invocation_id}
