"""Reads prices from web pages, with a browser."""

import kernel
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import sync_playwright

app = kernel.App("prices")


@app.action("read")
def read(ctx: kernel.KernelContext, payload: dict) -> dict:
    """Open the page at ``url``; return its product and its price."""
    client = kernel.Kernel()
    browser = client.browsers.create(invocation_id=ctx.invocation_id, headless=True)
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.connect_over_cdp(browser.cdp_ws_url).contexts[0].pages[0]
            print("opening", payload["url"])
            page.goto(payload["url"])
            product = page.locator("h1").inner_text()
            try:
                text = page.locator(".price").first.inner_text(timeout=1_000)
            except PlaywrightTimeoutError:
                raise LookupError(f"no price of {product}") from None
            print("found", text)
    finally:
        client.browsers.delete_by_id(browser.session_id)
    return {"product": product, "price": parse(text)}


def parse(text: str) -> float:
    """Return the number in ``£1,012.50``."""
    return float(text.strip(" £$€").replace(",", ""))
