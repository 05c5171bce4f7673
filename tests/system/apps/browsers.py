"""An app that uses browsers as Kernel's users do: by scripts, by mouse and keyboard, and as an agent."""

import json
import time
from contextlib import asynccontextmanager

import kernel

app = kernel.App("browsers-on-airflow")
client = kernel.Kernel()

WIDTH, HEIGHT = 1000, 700
TEXT = "document.querySelector('#text').value"


def png_size(png):
    """Return the width and height of a picture."""
    assert png.startswith(b"\x89PNG")
    return [int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")]


@app.action("script")
def script(ctx, payload):
    """Read a page's title with a script that runs beside the browser."""
    browser = client.browsers.create(invocation_id=ctx.invocation_id, headless=True)
    try:
        code = f"await page.goto({json.dumps(payload['url'])}); return await page.title();"
        done = client.browsers.playwright.execute(browser.session_id, code=code)
        assert done.success, done.error
        return {"title": done.result}
    finally:
        client.browsers.delete_by_id(browser.session_id)


@app.action("controls")
def controls(ctx, payload):
    """Go to a page, press its button and fill in its text by mouse and keyboard alone."""
    browser = client.browsers.create(
        invocation_id=ctx.invocation_id, viewport={"width": WIDTH, "height": HEIGHT}, stealth=True
    )
    browser_id, computer = browser.session_id, client.browsers.computer

    def evaluate(code):
        done = client.browsers.playwright.execute(browser_id, code=code)
        assert done.success, done.error
        return done.result

    try:
        computer.press_key(browser_id, keys=["Ctrl+l"])
        computer.type_text(browser_id, text=payload["url"])
        computer.press_key(browser_id, keys=["Return"])
        inner_height = evaluate(
            f"await page.waitForURL({json.dumps(payload['url'])}); return await page.evaluate('innerHeight')"
        )
        top = HEIGHT - inner_height  # the tabs and the address
        computer.click_mouse(browser_id, x=50, y=140 + top)
        computer.click_mouse(browser_id, x=50, y=50 + top)
        computer.type_text(browser_id, text="typed on Airflow")
        says = evaluate(
            f"await page.waitForFunction(() => clicks.length && {TEXT}.endsWith('Airflow'));"
            f"return await page.evaluate(() => ({{ title: document.title, clicks, text: {TEXT} }}))"
        )
        screenshot = computer.capture_screenshot(browser_id).read()
        return {"screenshot": png_size(screenshot), "says": says}
    finally:
        client.browsers.delete_by_id(browser_id)


def model(size, last):
    """Return the next tool call, as a model would of a screenshot of this size and of the last call's result."""
    width, height = size
    match last and last["tool"]:
        case None:
            return {"tool": "click", "x": width // 20, "y": 50}
        case "click":
            return {"tool": "type", "text": "by an agent"}
        case "type":
            return {"tool": "press", "keys": ["Tab"]}
        case "press":
            return {"tool": "scroll", "x": width // 2, "y": height // 2, "delta_y": 10}
        case "scroll":
            return {"tool": "done", "answer": f"{width}x{height}"}


@app.action("agent")
async def agent(ctx, payload):
    """Let the model use the browser until it has done its work, and record that."""
    async with kernel.AsyncKernel() as client, a_browser(client, ctx, payload["url"]) as browser_id:
        async with recorded(client, browser_id) as replay_id:
            answer, tools = await use(client.browsers.computer, browser_id)
            says = await client.browsers.playwright.execute(
                browser_id,
                code="await page.waitForFunction(() => scrollY > 0 && document.activeElement.tagName == 'BUTTON');"
                f"return await page.evaluate(() => {TEXT})",
            )
            assert says.success, says.error
        video = await client.browsers.replays.download(replay_id, id_or_name=browser_id)
        return {
            "answer": answer,
            "tools": tools,
            "text": says.result,
            "browser_id": browser_id,
            "replay_id": replay_id,
            "video_bytes": len(await video.read()),
        }


async def use(computer, browser_id):
    """Carry out what the model wants; return its answer, and which tools it has used."""
    last, tools = None, []
    while True:
        screenshot = await computer.capture_screenshot(browser_id)
        call = model(png_size(await screenshot.read()), last)
        print(call["tool"])
        match call:
            case {"tool": "click", "x": x, "y": y}:
                await computer.click_mouse(browser_id, x=x, y=y)
            case {"tool": "type", "text": text}:
                await computer.type_text(browser_id, text=text)
            case {"tool": "press", "keys": keys}:
                await computer.press_key(browser_id, keys=keys)
            case {"tool": "scroll", "x": x, "y": y, "delta_y": delta_y}:
                await computer.scroll(browser_id, x=x, y=y, delta_y=delta_y)
            case {"tool": "done", "answer": answer}:
                return answer, tools
        tools.append(call["tool"])
        last = call


@asynccontextmanager
async def a_browser(client, ctx, url):
    """Give the id of a browser that shows a page and nothing else, as agents like it."""
    browser = await client.browsers.create(
        invocation_id=ctx.invocation_id,
        kiosk_mode=True,
        viewport={"width": WIDTH, "height": HEIGHT},
        start_url=url,
    )
    try:
        code = f"await page.waitForURL({json.dumps(url)})"
        opened = await client.browsers.playwright.execute(browser.session_id, code=code)
        assert opened.success, opened.error
        yield browser.session_id
    finally:
        await client.browsers.delete_by_id(browser.session_id)


@asynccontextmanager
async def recorded(client, browser_id):
    """Give the id of a recording of what happens meanwhile."""
    replay = await client.browsers.replays.start(browser_id)
    try:
        yield replay.replay_id
    finally:
        await client.browsers.replays.stop(replay.replay_id, id_or_name=browser_id)


@app.action("for_ever")
def for_ever(ctx):
    """Open a browser, and never return."""
    client.browsers.create(invocation_id=ctx.invocation_id)
    print("open")
    time.sleep(3600)
