"""An app that makes browsers in the ways that Kernel's templates do."""

import asyncio
import time

import kernel
from playwright.async_api import async_playwright

app = kernel.App("browsers")
client = kernel.Kernel()


@app.action("title")
async def title(ctx: kernel.KernelContext, payload: dict) -> str:
    """Read a page's title over the DevTools Protocol, in a context of its own."""
    browser = client.browsers.create(invocation_id=ctx.invocation_id, stealth=True)
    try:
        async with async_playwright() as playwright:
            connected = await playwright.chromium.connect_over_cdp(browser.cdp_ws_url)
            page = await (await connected.new_context()).new_page()
            await page.goto(payload["url"])
            return await page.title()
    finally:
        client.browsers.delete_by_id(browser.session_id)


@app.action("leave")
def leave(ctx: kernel.KernelContext, payload: dict) -> str:
    """Return and leave a browser."""
    return client.browsers.create(
        invocation_id=ctx.invocation_id, timeout_seconds=payload["timeout"]
    ).session_id


@app.action("wait")
async def wait(ctx: kernel.KernelContext) -> None:
    """Make browsers, and never return."""
    browsers = [client.browsers.create(invocation_id=ctx.invocation_id, headless=True) for _ in range(2)]
    print("made", *(browser.session_id for browser in browsers))
    await asyncio.Event().wait()


@app.action("hurry")
def hurry(ctx: kernel.KernelContext) -> None:
    """Say so just before a browser is made."""
    print("making")
    client.browsers.create(invocation_id=ctx.invocation_id)
    time.sleep(3600)
