"""An app whose action says that it has run."""

import time
from typing import Any

import kernel

app = kernel.App("fan-out")


@app.action("visit")
def visit(ctx: kernel.KernelContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Print the page, wait ``seconds``, and return the page."""
    print(f"page {payload['page']}")
    time.sleep(payload["seconds"])
    return {"page": payload["page"]}
