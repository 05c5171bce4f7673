"""The emulator's page: who gets it, and what a person sees of it in a real browser."""

import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.no_airflow

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
HOSTILE_APP = f"""
import kernel
app = kernel.App({HOSTILE!r})
@app.action({HOSTILE!r})
def act(ctx, payload):
    print(payload)
    raise ValueError(payload)
@app.action("output")
def output(ctx, payload):
    return payload
"""
CHATTY_APP = """
import time, kernel
app = kernel.App("chatty")
@app.action("flood")
def flood(ctx):
    for number in range(60_000):
        print("line", number, "x" * 60)
    time.sleep(60)
"""
VERSION_APP = """
import kernel
app = kernel.App("shop")
@app.action("act")
def act(ctx):
    return {result!r}
"""
LIVE_VIEW = "<!doctype html><title>live</title><p>live picture</p>"
#: What a browser sends with a click on a link of another site.
CLICK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@contextmanager
def serving_html(text):
    """Serve a page at ``localhost``, which is another site than 127.0.0.1; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


def page_files(emulator):
    """Return the paths of the page's files, as they name each other."""
    found, asked = {"/", "/page/live.html"}, set()  # The second is a page of its own.
    while found - asked:
        path = (found - asked).pop()
        asked.add(path)
        found |= set(re.findall(r'"(/page/[\w.]+)"', httpx.get(emulator.base_url + path).text))
    return found


def test_every_file_of_the_page_is_served_without_a_token(start_emulator):
    emulator = start_emulator(api_key="sk_only")
    folder = Path(__file__).parents[2] / "airflow_provider_kernel" / "emulator" / "page_files"
    paths = {"/" if file.name == "index.html" else f"/page/{file.name}" for file in folder.iterdir()}

    assert page_files(emulator) == paths | {"/page/invocations"}
    for path in paths:
        reply = httpx.get(emulator.base_url + path)
        headers = reply.headers
        assert reply.status_code == 200
        assert headers["cache-control"] == "no-cache"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"].split("; ")
        assert {"default-src 'self'", "frame-src 'self'", "frame-ancestors 'none'", "form-action 'none'"} <= {
            *policy
        }
        assert "unsafe" not in headers["content-security-policy"]
        assert "sk_only" not in reply.text


def test_only_the_pages_files_need_no_token(emulator):
    for method, path in [
        ("GET", "/page/invocations"),
        ("GET", "/page"),
        ("GET", "/page/"),
        ("GET", "/page/index.html"),
        ("GET", "/page/../page.py"),
        ("GET", "//"),
        ("POST", "/"),
        ("HEAD", "/"),
    ]:
        assert httpx.request(method, emulator.base_url + path).status_code == 401, (method, path)


@pytest.mark.parametrize("path", ["/page/script.js", "/invocations", "/page/invocations", "/nowhere"])
def test_link_of_another_site_leads_to_the_page_alone(http, path):
    assert http.get("/", headers=CLICK).status_code == 200
    assert http.get(path, headers=CLICK).status_code == 403
    assert http.post("/", headers=CLICK).status_code == 403
    assert http.get("/", headers={**CLICK, "Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert http.get("/", headers={**CLICK, "Host": "evil.example"}).status_code == 421


def test_refusals_of_the_account_do_not_concern_the_page(start_emulator):
    emulator = start_emulator(refuse="other-project")

    assert httpx.get(emulator.base_url, headers={"X-Kernel-Project": "p"}).status_code == 200


def test_the_pages_list_has_the_newest_invocations_without_payload_and_output(http, submit, status, until):
    ids = [submit("echo", number) for number in range(3)]
    until(lambda: all(status(each) == "succeeded" for each in ids))

    listed = http.get("/page/invocations").json()

    assert [each["id"] for each in listed["invocations"][:3]] == ids[::-1]
    assert set(listed["invocations"][0]) == {
        "id", "app_name", "action_name", "status", "started_at", "finished_at",
    }  # fmt: skip
    assert listed["total"] >= 3
    assert listed["now"] >= listed["invocations"][0]["finished_at"]


@pytest.fixture
def open_page(chrome):
    """Open an address in a browser that knows nothing. At the end: nothing was asked of others, and nothing went wrong."""
    contexts, asked, complaints = [], [], []

    def open_page(url, *, browsers=(), own=(), allowed="$^") -> Page:
        context = chrome.new_context()
        contexts.append((context, url.partition("#")[0].rstrip("/"), allowed))
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.route(re.compile(r"/browsers(\?limit=100)?$"), lambda route: answer(route, browsers, own))
        page.route("**/live/*", lambda route: route.fulfill(body=LIVE_VIEW, content_type="text/html"))
        page.goto(url)
        return page

    def answer(route, browsers, own):
        if route.request.method != "GET":
            route.fallback()
        elif "/invocations/" in route.request.url:
            route.fulfill(json={"browsers": list(own)})
        else:
            route.fulfill(json=list(browsers))

    yield open_page
    for context, _, _ in contexts:
        context.close()
    origins = tuple(f"{origin}/" for _, origin, _ in contexts)
    assert [url for url in asked if not url.startswith(origins)] == []
    assert [
        text for text in complaints if not any(re.search(allowed, text) for *_, allowed in contexts)
    ] == []


def run(page, action, payload):
    page.get_by_role("radio", name=action, exact=True).check()
    page.locator("#payload").fill(payload)
    page.get_by_role("button", name="Run", exact=True).click()


def middle(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def log_lines(page):
    return page.locator("#log div")


@pytest.mark.browser
def test_action_is_run_by_the_form_and_its_output_is_shown(emulator, open_page):
    page = open_page(emulator.base_url)

    run(page, "echo", '{"sku": "lamp", "id": 12345678901234567890, "of": [], "name": "caf\\u00e9"}')

    expect(page).to_have_url(re.compile(r"/#/invocations/[a-z0-9]{24}$"))
    expect(page.locator("#detail-status")).to_have_text("succeeded")
    expect(page.get_by_role("heading", name="tests.echo")).to_be_visible()
    expect(page.locator("#output")).to_have_text(
        '{\n  "sku": "lamp",\n  "id": 12345678901234567890,\n  "of": [],\n  "name": "café"\n}'
    )
    newest = page.locator("#invocations li").first
    expect(newest).to_contain_text("tests.echo")
    expect(newest).to_contain_text("succeeded")
    expect(newest.locator("a")).to_have_attribute("aria-current", "page")


@pytest.mark.browser
def test_form_works_by_keyboard_alone_and_remembers_the_payload_of_each_action(emulator, open_page):
    page = open_page(emulator.base_url)
    payload = page.locator("#payload")
    page.get_by_role("radio", name="echo", exact=True).focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(payload).to_be_focused()
    page.keyboard.type("[1]")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#output")).to_have_text("[\n  1\n]")

    page.reload()

    expect(page.get_by_role("radio", name="echo", exact=True)).to_be_checked()
    expect(payload).to_have_value("[1]")
    page.get_by_role("radio", name="sleep", exact=True).check()
    expect(payload).to_have_value("")
    page.get_by_role("radio", name="echo", exact=True).check()
    expect(payload).to_have_value("[1]")


@pytest.mark.browser
def test_version_can_be_chosen_if_an_app_has_several(start_emulator, tmp_path, open_page):
    files = [tmp_path / "shop.py", tmp_path / "shop_v2.py"]
    for file in files:
        file.write_text(VERSION_APP.format(result=file.stem))
    page = open_page(start_emulator([files[0]], versions={"2": files[1]}).base_url)

    for version, result in (("2", "shop_v2"), ("emulator", "shop")):
        page.goto(page.url.partition("#")[0])
        page.get_by_role("group", name=f"shop (version {version})").get_by_role("radio", name="act").check()
        page.get_by_role("button", name="Run", exact=True).click()
        expect(page.locator("#output")).to_have_text(f'"{result}"')
        expect(page.locator("#detail-facts")).to_contain_text(f"Version{version}")


@pytest.mark.browser
def test_payload_that_is_not_json_is_not_sent(emulator, http, open_page):
    before = http.get("/page/invocations").json()["total"]
    page = open_page(emulator.base_url)

    run(page, "echo", "{sku}")

    expect(page.locator("#run-error")).to_contain_text("The payload is not JSON")
    expect(page.locator("#payload")).to_be_focused()
    assert http.get("/page/invocations").json()["total"] == before
    page.keyboard.type("x")
    expect(page.locator("#run-error")).to_be_empty()


@pytest.mark.browser
def test_refusal_is_shown(start_emulator, open_page):
    page = open_page(start_emulator(refuse="spending-cap").base_url, allowed="status of 403")

    run(page, "echo", "1")

    expect(page.locator("#run-error")).to_contain_text("spending cap")


@pytest.mark.browser
def test_log_grows_while_the_invocation_runs_and_cancel_ends_it(emulator, submit, status, open_page):
    invocation_id = submit("logs", {"n": 10_000, "delay": 0.05})
    page = open_page(f"{emulator.base_url}/#/invocations/{invocation_id}")

    expect(log_lines(page).nth(1)).to_have_text("line 1")
    expect(log_lines(page).nth(40)).to_have_text("line 40")
    expect(page.locator("#detail-status")).to_have_text("running")
    before = page.locator("#detail-facts dd").nth(2).inner_text()
    expect(page.locator("#detail-facts dd").nth(2)).not_to_have_text(before)
    page.get_by_role("button", name="Cancel").click()

    expect(page.locator("#detail-status")).to_have_text("failed")
    expect(page.locator("#detail-facts")).to_contain_text("The invocation was ended by a request.")
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    expect(page.locator("#invocations [aria-current]")).to_contain_text("failed")
    assert status(invocation_id) == "failed"


@pytest.mark.browser
def test_log_follows_its_end_unless_the_reader_scrolled_up(emulator, submit, until, open_page):
    invocation_id = submit("logs", {"n": 10_000, "delay": 0.02})
    page = open_page(f"{emulator.base_url}/#/invocations/{invocation_id}")
    distance = "box => box.scrollHeight - box.scrollTop - box.clientHeight"
    log = page.locator("#log")
    expect(log_lines(page).nth(60)).to_be_visible()
    assert log.evaluate(distance) < 5

    log.focus()
    page.keyboard.press("Home")
    follow = page.get_by_role("button", name="Follow the end")
    expect(follow).to_be_visible()
    # A batch that arrives at the moment of the first press moves the log by its own height.
    page.keyboard.press("Home")
    until(lambda: log.evaluate("box => box.scrollTop") == 0)
    seen = log_lines(page).count()
    expect(log_lines(page).nth(seen + 40)).to_be_attached()
    assert log.evaluate("box => box.scrollTop") == 0
    page.mouse.move(*middle(log))
    page.mouse.wheel(0, 100_000)
    expect(follow).to_be_hidden()
    page.mouse.wheel(0, -30)
    expect(follow).to_be_visible()

    follow.click()
    expect(follow).to_be_hidden()
    seen = log_lines(page).count()
    expect(log_lines(page).nth(seen + 40)).to_be_visible()
    assert log.evaluate(distance) < 5
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#detail-status")).to_have_text("failed")


@pytest.mark.browser
def test_flood_of_lines_does_not_freeze_the_page(start_emulator, tmp_path, open_page):
    (tmp_path / "chatty.py").write_text(CHATTY_APP)
    page = open_page(start_emulator([tmp_path / "chatty.py"]).base_url)
    page.evaluate(
        "window.longest = 0; let last = performance.now();"
        "setInterval(() => { const now = performance.now(); longest = Math.max(longest, now - last); last = now; }, 10)"
    )

    run(page, "flood", "")

    expect(log_lines(page).last).to_contain_text("line 59999", timeout=90_000)
    expect(page.locator("#log-note")).to_have_text(re.compile(r"the last 5000 of \d+ lines"))
    assert log_lines(page).count() == 5_000
    assert page.evaluate("longest") < 5_000  # milliseconds, also beside other tests
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#detail-status")).to_have_text("failed")


@pytest.mark.browser
def test_stream_that_breaks_is_opened_again_without_a_line_lost_or_twice(emulator, submit, open_page):
    invocation_id = submit("logs", {"n": 30, "delay": 0.1})
    pieces = []

    def cut(route):
        # The first answer ends in the middle of an event.
        if not pieces:
            headers = {"Authorization": f"Bearer {emulator.api_key}"}
            with httpx.stream("GET", route.request.url, headers=headers) as reply:
                for piece in reply.iter_text():
                    pieces.append(piece)
                    if "line 3" in piece:
                        break
            route.fulfill(body="".join(pieces)[:-4], content_type="text/event-stream")
        else:
            route.fallback()

    page = open_page(emulator.base_url)
    page.route("**/events*", cut)
    page.goto(f"{emulator.base_url}/#/invocations/{invocation_id}")

    expect(page.locator("#detail-status")).to_have_text("succeeded")
    expect(log_lines(page)).to_have_text([f"line {number}" for number in range(30)])
    assert pieces


@pytest.mark.browser
@pytest.mark.parametrize("name", ["unknown0unknown0unknown0", "..%2f..", "a/b"])
def test_address_of_an_unknown_invocation_says_so_or_shows_the_overview(emulator, open_page, name):
    page = open_page(f"{emulator.base_url}/#/invocations/{name}", allowed="status of 404")

    if "unknown" in name:
        expect(page.locator("#detail-error")).to_contain_text("There is no such invocation.")
    else:
        expect(page.get_by_role("heading", name="Connect", exact=True)).to_be_visible()
    expect(page.locator("#connection")).to_have_text("Connected")


@pytest.mark.browser
def test_wrong_key_asks_for_the_key(start_emulator, open_page):
    emulator = start_emulator(api_key="sk_only")
    page = open_page(emulator.base_url, allowed="status of 401")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_visible()

    page.get_by_label("Key", exact=True).fill("sk_wrong")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("The emulator refused this key.")
    page.get_by_label("Key", exact=True).fill("ключ")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("ASCII")
    page.get_by_label("Key", exact=True).fill("sk_only")
    page.keyboard.press("Enter")

    expect(dialog).to_be_hidden()
    run(page, "echo", "7")
    expect(page.locator("#output")).to_have_text("7")
    page.goto(f"{emulator.base_url}/#/")
    expect(page.locator("#connect")).to_contain_text("the key of --api-key")
    page.reload()
    expect(page.locator("#connection")).to_have_text("Connected")
    assert "sk_only" not in page.content() + page.url
    assert page.evaluate("JSON.stringify(localStorage)").count("sk_only") == 0


@pytest.mark.browser
def test_what_an_app_says_is_shown_as_text(start_emulator, tmp_path, open_page):
    (tmp_path / "hostile.py").write_text(HOSTILE_APP)
    hostile = {"session_id": HOSTILE, "browser_live_view_url": "javascript:alert(1)", "created_at": HOSTILE}
    hostile["viewport"] = {"width": 1, "height": 1}
    emulator = start_emulator([tmp_path / "hostile.py"])
    page = open_page(emulator.base_url, browsers=[hostile])
    expect(page.locator("legend")).to_have_text(HOSTILE)
    expect(page.locator("#browser-cards h3")).to_have_text(HOSTILE)
    expect(page.locator("#browser-cards a")).to_have_count(0)

    run(page, HOSTILE, json.dumps(HOSTILE))
    expect(page.locator("#detail-status")).to_have_text("failed")
    expect(page.locator("#output")).to_contain_text(HOSTILE)
    expect(log_lines(page).first).to_have_text(HOSTILE)
    expect(page.locator("#detail-title")).to_have_text(f"{HOSTILE}.{HOSTILE}")
    expect(page.locator("#invocations .name")).to_have_text(f"{HOSTILE}.{HOSTILE}")
    run(page, "output", json.dumps([HOSTILE]))
    expect(page.locator("#detail-status")).to_have_text("succeeded")
    expect(page.locator("#output")).to_contain_text("onerror=")

    assert page.locator("img, script").count() == 2  # the page's own
    assert page.locator("[onerror]").count() == 0
    assert "hacked" not in page.title().replace(HOSTILE, "")


@pytest.mark.browser
def test_browsers_are_shown_live_and_keep_their_frame(emulator, submit, open_page):
    def browser(number, **fields):
        url = f"{emulator.base_url}/live/{number}?secret"
        return {
            "session_id": f"session{number}", "browser_live_view_url": url, "headless": False, "stealth": False,
            "created_at": "2026-01-01T00:00:00Z", "timeout_seconds": 60,
            "viewport": {"width": 1280, "height": 800}, **fields,
        }  # fmt: skip

    browsers = [browser(1, viewport={"width": 1000, "height": 500}), browser(2, name="checkout")]
    own = browsers[:1]
    invocation_id = submit("minute")
    page = open_page(emulator.base_url, browsers=browsers, own=own)
    cards = page.locator("#browser-cards article:visible")
    expect(cards).to_have_count(2)
    expect(cards.nth(1)).to_contain_text("checkout")
    frame = cards.first.locator("iframe")
    expect(frame.content_frame.get_by_text("live picture")).to_be_visible()
    link = cards.first.get_by_role("link", name="Open live view")
    expect(link).to_have_attribute("href", f"{emulator.base_url}/live/1?secret")
    expect(link).to_have_attribute("target", "_blank")
    picture, shown = cards.first.locator(".picture").bounding_box(), frame.bounding_box()
    assert picture["width"] / picture["height"] == pytest.approx(2, rel=0.02)
    assert shown["width"] == pytest.approx(picture["width"], abs=3)
    assert shown["height"] == pytest.approx(picture["height"], abs=3)
    page.evaluate("document.querySelector('iframe').contentWindow.mark = 1")

    page.locator(f"a[href='#/invocations/{invocation_id}']").click()
    expect(cards).to_have_count(1)
    expect(page.get_by_role("heading", name="Browsers of this invocation")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    expect(cards).to_have_count(2)
    with page.expect_response(re.compile(r"/browsers\?limit=100$")):
        pass
    assert page.evaluate("document.querySelector('iframe').contentWindow.mark") == 1

    closed = []

    def close(route):
        closed.append((route.request.method, route.request.url.removeprefix(emulator.base_url)))
        browsers.pop(0)
        own.clear()
        route.fulfill(status=204)

    page.route("**/browsers/session1", close)
    cards.first.get_by_role("button", name="Close").click()
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("checkout")
    assert closed == [("DELETE", "/browsers/session1")]
    browsers.clear()
    expect(page.get_by_text("No browsers.")).to_be_visible()


@pytest.mark.browser
def test_click_on_another_sites_link_shows_the_invocation_and_no_site_can_frame_it(emulator, submit, chrome):
    invocation_id = submit("echo", 7)
    url = f"{emulator.base_url}/#/invocations/{invocation_id}"
    foreign = f'<a href="{url}" target="_blank">Kernel invocation</a><iframe src="{url}"></iframe>'
    with serving_html(foreign) as site, chrome.new_context() as context:
        page = context.new_page()
        with page.expect_response(f"{emulator.base_url}/") as framed:
            page.goto(site)
        assert framed.value.status == 403
        with context.expect_page() as opened:
            page.get_by_role("link").click()

        expect(opened.value.locator("#detail-title")).to_have_text("tests.echo")
        expect(opened.value.locator("#output")).to_have_text("7")


@pytest.mark.browser
def test_page_says_when_the_emulator_is_gone_and_goes_on_when_it_is_back(start_emulator, open_page):
    emulator = start_emulator()
    url, port = emulator.base_url, int(emulator.base_url.rpartition(":")[2])
    page = open_page(url, allowed="Failed to load resource")
    run(page, "minute", "")
    expect(page.locator("#detail-status")).to_have_text("running")

    emulator.stop()
    expect(page.locator("#connection")).to_have_text("Not reachable; trying again")
    start_emulator(port=port)

    expect(page.locator("#connection")).to_have_text("Connected")
    expect(page.locator("#detail-error")).to_contain_text("There is no such invocation.")
    run(page, "echo", "7")
    expect(page.locator("#output")).to_have_text("7")
