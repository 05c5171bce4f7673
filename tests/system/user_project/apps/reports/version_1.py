"""Version 1 of the reports: the text alone."""

import kernel

app = kernel.App("reports")


@app.action("write")
def write(ctx: kernel.KernelContext, payload: dict) -> str:
    return ", ".join(price["product"] for price in payload["prices"])
