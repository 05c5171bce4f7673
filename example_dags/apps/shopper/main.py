"""
A Kernel app with a browser: orders something in an online shop, and returns what the shop has confirmed.

Playwright drives the browser over the DevTools Protocol. Deploy the app from this folder with ``kernel deploy main.py``,
or run it here, with Chromium, by ``python -m airflow_provider_kernel.emulator main.py``. There the browser may visit
what this machine serves; one on Kernel can visit public sites alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import kernel
from playwright.async_api import Page, async_playwright

# It logs the addresses of all requests, and who has that of the screenshot may write there.
logging.getLogger("httpx").setLevel(logging.WARNING)

app = kernel.App("shopper")
client = kernel.AsyncKernel()


@app.action("order")
async def order(ctx: kernel.KernelContext, payload: dict[str, Any]) -> dict[str, Any]:
    """
    Order a product, and return the order.

    The payload says where the shop is (``shop_url``), the ``product``, the ``quantity``, and the ``reference`` of the
    order, by which the shop notices one that it has already. With ``screenshot_url``, such as a presigned URL of a
    bucket, a picture of the confirmation is sent there. ``pause_seconds`` after each step (default: 1) let one watch.
    """
    browser = await client.browsers.create(
        invocation_id=ctx.invocation_id, viewport={"width": 1280, "height": 800}, timeout_seconds=120
    )
    print("the browser is open")

    async def step(text: str) -> None:
        print(text)
        await asyncio.sleep(payload.get("pause_seconds", 1))

    try:
        async with (
            async_playwright() as playwright,
            await playwright.chromium.connect_over_cdp(browser.cdp_ws_url) as connected,
        ):
            confirmed = await shop(connected.contexts[0].pages[0], payload, step)
            if url := payload.get("screenshot_url"):
                await send_screenshot(browser.session_id, url)
                await step("sent a screenshot")
        return confirmed
    finally:
        # Otherwise it stays, and costs, until nobody has used it for timeout_seconds.
        await client.browsers.delete_by_id(browser.session_id)


async def shop(page: Page, payload: dict[str, Any], step: Callable[[str], Awaitable[None]]) -> dict[str, Any]:
    """Go from the search to the confirmation."""
    await page.goto(payload["shop_url"])
    await step(f"opened the shop: {await page.title()}")

    await page.get_by_label("Search").fill(payload["product"])
    await page.get_by_role("button", name="Search").click()
    products = page.get_by_role("main").get_by_role("link")
    await step(f"searched: {', '.join(await products.all_inner_texts()) or 'nothing found'}")

    await page.get_by_role("link", name=payload["product"], exact=True).click()
    await page.get_by_label("Quantity").fill(str(payload["quantity"]))
    await step(f"chose {await page.get_by_role('heading').inner_text()}, {payload['quantity']} of them")

    await page.get_by_role("button", name="Add to cart").click()
    await page.get_by_role("heading", name="Your cart").wait_for()
    await step("put them into the cart")

    await page.get_by_role("button", name="Check out").click()
    await page.get_by_label("Name").fill("Ada Example")
    await page.get_by_label("Your reference").fill(payload["reference"])
    await step("filled in the form")

    await page.get_by_role("button", name="Order").click()
    number = await page.get_by_role("row", name="Number").get_by_role("cell").last.inner_text()
    total = await page.get_by_role("row", name="Total").get_by_role("cell").last.inner_text()
    await step(f"ordered: {number}")
    return {
        "order": number,
        "product": payload["product"],
        "quantity": payload["quantity"],
        "total": float(total),
    }


async def send_screenshot(browser_id: str, url: str) -> None:
    """Send a picture of the whole window where the payload says."""
    screenshot = await client.browsers.computer.capture_screenshot(browser_id)
    async with httpx.AsyncClient() as http:
        reply = await http.put(url, content=await screenshot.read(), headers={"Content-Type": "image/png"})
        reply.raise_for_status()
