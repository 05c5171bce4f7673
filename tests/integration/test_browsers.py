"""Browsers of the emulator: their life, the API's view of them, and the relay of the DevTools Protocol."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from threading import Thread

import httpx
import kernel
import psutil
import pytest
from playwright.sync_api import sync_playwright
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests.integration.browsing import (
    APP,
    Person,
    descendants,
    needs_chromium,
    needs_ffmpeg,
    needs_screen,
    png_size,
)
from tests.integration.conftest import client_of
from tests.integration.emulator_process import emulator_process

pytestmark = [pytest.mark.no_airflow, needs_chromium]


@pytest.fixture(scope="module")
def emulator():
    with KernelEmulator([APP]) as emulator:
        yield emulator


@pytest.fixture
def client(emulator):
    client = client_of(emulator)
    yield client
    for browser in client.browsers.list().items:
        with suppress(kernel.NotFoundError):
            client.browsers.delete_by_id(browser.session_id)


def open_ids(client):
    return [browser.session_id for browser in client.browsers.list().items]


def start(client, action, **payload):
    return client.invocations.create(
        app_name="browsers", action_name=action, version="latest", payload=json.dumps(payload), async_=True
    ).id


def end_of(client, invocation_id):
    def ended():
        invocation = client.invocations.retrieve(invocation_id)
        return invocation if invocation.status in ("succeeded", "failed") else None

    return wait_until(ended, 60, "the invocation ends", 0.05)


def browsers_of(client, invocation_id):
    return [browser.session_id for browser in client.invocations.list_browsers(invocation_id).browsers]


def test_an_app_reads_a_page_over_cdp_and_deletes_its_browser(client, site):
    invocation = end_of(client, start(client, "title", url=f"{site}/shop"))
    assert (invocation.status, invocation.output) == ("succeeded", '"/shop"')
    assert open_ids(client) == []


def test_a_browser_is_as_the_sdk_describes_it(client, emulator):
    made = client.browsers.create(
        name="b", tags={"team": "x"}, viewport={"width": 800, "height": 600}, stealth=True
    )
    read = client.browsers.retrieve("b")
    assert read == client.browsers.retrieve(made.session_id)
    assert read.model_dump() == made.model_dump()
    assert (read.headless, read.stealth, read.timeout_seconds, read.tags) == (False, True, 60, {"team": "x"})
    # With a base_url the SDK would send some calls there, past the emulator.
    assert read.base_url is None
    assert read.cdp_ws_url.startswith(emulator.base_url.replace("http", "ws"))
    assert read.browser_live_view_url.startswith(emulator.base_url)
    assert [item.session_id for item in client.browsers.list(tags={"team": "x"}).items] == [made.session_id]
    assert client.browsers.list(tags={"team": "y"}).items == []
    assert client.browsers.list(query="B").items != []


def test_a_deleted_browser_is_remembered_and_gone(client):
    made = client.browsers.create(headless=True)
    client.browsers.delete_by_id(made.session_id)
    with pytest.raises(kernel.NotFoundError, match="Browser not found"):
        client.browsers.retrieve(made.session_id)
    with pytest.raises(kernel.NotFoundError):
        client.browsers.delete_by_id(made.session_id)
    assert client.browsers.retrieve(made.session_id, include_deleted=True).deleted_at is not None
    assert client.browsers.list(status="deleted").items[0].session_id == made.session_id


def test_a_headless_browser_has_no_live_view(client):
    assert client.browsers.create(headless=True).browser_live_view_url is None


def test_the_start_url_is_opened(client, site):
    made = client.browsers.create(headless=True, start_url=f"{site}/start")
    Person(client, made.session_id).sees("document.title", "/start")


@pytest.mark.parametrize("headless", [True, pytest.param(False, marks=needs_screen)])
def test_the_viewport_can_be_changed(client, headless):
    made = client.browsers.create(headless=headless, viewport={"width": 800, "height": 600})
    client.browsers.update(made.session_id, viewport={"width": 640, "height": 480}, name="renamed")
    width, height = png_size(client.browsers.computer.capture_screenshot("renamed").read())
    assert (width, height) == (640, 480)
    Person(client, "renamed").sees("[innerWidth, outerWidth].includes(640)", value=True)


@needs_ffmpeg
def test_the_viewport_of_a_recorded_browser_changes_by_force_alone(client):
    made = client.browsers.create(headless=True, viewport={"width": 800, "height": 600})
    client.browsers.replays.start(made.session_id)
    size = {"width": 640, "height": 480}
    with pytest.raises(kernel.ConflictError, match=r"set viewport\.force"):
        client.browsers.update(made.session_id, viewport=size)
    client.browsers.update(made.session_id, viewport=size | {"force": True})
    assert png_size(client.browsers.computer.capture_screenshot(made.session_id).read()) == (640, 480)


@needs_screen
def test_a_viewport_beyond_the_screen_is_refused(client):
    made = client.browsers.create(viewport={"width": 800, "height": 600})
    with pytest.raises(kernel.BadRequestError, match="The screen of this browser has 2560x1600"):
        client.browsers.update(made.session_id, viewport={"width": 3000, "height": 600})


def test_a_name_belongs_to_one_open_browser(client):
    client.browsers.create(name="one", headless=True)
    with pytest.raises(kernel.ConflictError, match="Another browser is named one"):
        client.browsers.create(name="one", headless=True)
    client.browsers.delete_by_id("one")
    client.browsers.create(name="one", headless=True)


def test_a_profile_is_kept_by_name(client, site):
    def visit(script, **profile):
        made = client.browsers.create(headless=True, profile={"name": "shopper", **profile})
        person = Person(client, made.session_id)
        person.open(site)
        value = person.page(script)
        client.browsers.delete_by_id(made.session_id)
        return value

    seen = "[document.cookie, localStorage.item ?? '']"
    visit("(document.cookie = 'a=1; max-age=999', localStorage.item = 'x')", save_changes=True)
    assert visit(seen) == ["a=1", "x"]
    visit("(document.cookie = 'a=2; max-age=999')")  # It saves no changes.
    assert visit(seen) == ["a=1", "x"]


def test_browsers_of_different_names_share_nothing(client, site):
    people = [Person(client, client.browsers.create(headless=True).session_id) for _ in range(2)]
    for person in people:
        person.open(site)
    people[0].page("(document.cookie = 'a=1')")
    assert people[1].page("document.cookie") == ""


def test_the_end_of_an_action_leaves_its_browser(client):
    invocation_id = start(client, "leave", timeout=3600)
    browser_id = json.loads(end_of(client, invocation_id).output)
    assert browsers_of(client, invocation_id) == [browser_id]
    client.invocations.delete_browsers(invocation_id)
    assert browsers_of(client, invocation_id) == open_ids(client) == []


def test_a_cancelled_invocation_closes_its_browsers_and_no_other(client):
    other = client.browsers.create(headless=True).session_id
    invocation_id = start(client, "wait")
    wait_until(lambda: len(browsers_of(client, invocation_id)) == 2, 30, "two browsers", 0.05)
    client.invocations.update(invocation_id, status="failed")
    assert browsers_of(client, invocation_id) == []
    assert open_ids(client) == [other]


def test_a_browser_that_starts_during_the_cancellation_does_not_stay(client):
    invocation_id = start(client, "hurry")
    for event in client.invocations.follow(invocation_id):
        if event.event == "log":
            break
    client.invocations.update(invocation_id, status="failed")
    with pytest.raises(kernel.BadRequestError, match="has already ended"):
        client.browsers.create(invocation_id=invocation_id)
    wait_until(lambda: open_ids(client) == [], 10, "no browser", 0.05)


def test_an_unknown_invocation_cannot_have_a_browser(client):
    with pytest.raises(kernel.BadRequestError, match="Invocation not found: unknown"):
        client.browsers.create(invocation_id="unknown")


def test_a_browser_closes_after_its_inactivity_and_not_while_it_is_used(client, site):
    def create():
        return client.browsers.create(headless=True, timeout_seconds=10)

    long = [{"type": "sleep", "sleep": {"duration_ms": 14_000}}]
    made = create()
    with connect(made.cdp_ws_url, max_size=None):
        used, busy = made.session_id, create().session_id
        batch = Thread(target=client.browsers.computer.batch, args=(busy,), kwargs={"actions": long})
        batch.start()
        idle = create().session_id
        wait_until(lambda: idle not in open_ids(client), 60, "the idle browser closes")
        assert {used, busy} == set(open_ids(client))
        batch.join()
        assert {used, busy} == set(open_ids(client))
    wait_until(lambda: open_ids(client) == [], 30, "the others close, once they are idle")


def test_a_batch_ends_with_its_browser(client):
    made = client.browsers.create()
    actions = [
        {"type": "sleep", "sleep": {"duration_ms": 3_000}},
        {"type": "move_mouse", "move_mouse": {"x": 1, "y": 1}},
    ]
    refused = []

    def run():
        with suppress(kernel.NotFoundError):
            client.browsers.computer.batch(made.session_id, actions=actions)
            return
        refused.append(True)

    batch = Thread(target=run)
    batch.start()
    client.browsers.delete_by_id(made.session_id)
    batch.join()
    assert refused


def test_downloads_stay_in_the_browsers_files_after_a_client_has_left(client, site):
    made = client.browsers.create(headless=True)
    person = Person(client, made.session_id)
    person.open(f"{site}/form")
    person.computer.click_mouse(person.id, x=60, y=395)

    def downloads():
        return [file.name for file in client.browsers.fs.list_files(person.id, path="/home/kernel/Downloads")]

    wait_until(lambda: downloads() == ["data.txt"], 10, "the download", 0.05)


def test_a_browser_whose_process_dies_is_closed(client, emulator):
    client.browsers.create(headless=True)
    for process in descendants(emulator.pid):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until(lambda: open_ids(client) == [], 10, "the browser is closed", 0.05)


def test_closing_the_connection_leaves_the_browser(client, site):
    made = client.browsers.create()
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(made.cdp_ws_url)
        browser.contexts[0].pages[0].goto(f"{site}/first")
        browser.close()
        browser = playwright.chromium.connect_over_cdp(made.cdp_ws_url)
        assert browser.contexts[0].pages[0].title() == "/first"
    with connect(made.cdp_ws_url, max_size=None) as socket:
        socket.send('{"id": 7, "method": "Browser.close"}')
        assert json.loads(socket.recv()) == {"id": 7, "result": {}}
        with pytest.raises(ConnectionClosed):
            socket.recv()
    assert open_ids(client) == [made.session_id]


def test_closing_the_last_page_leaves_the_browser(client, site):
    made = client.browsers.create()
    with sync_playwright() as playwright:
        browser = playwright.chromium.connect_over_cdp(made.cdp_ws_url)
        for page in browser.contexts[0].pages:
            page.close()
    person = Person(client, made.session_id)
    person.evaluate(f"await page.goto('{site}/next')")
    assert person.page("document.title") == "/next"
    assert png_size(client.browsers.computer.capture_screenshot(made.session_id).read()) == (1920, 1080)


def test_files_go_through_the_browsers_own_file_system(client, site):
    made = client.browsers.create(headless=True)
    files = client.browsers.fs
    files.write_file(made.session_id, b"uploaded", path="/tmp/in/a.txt")
    files.upload(
        made.session_id, files=[{"file": b"1", "dest_path": "/b"}, {"file": b"2", "dest_path": "/c"}]
    )
    assert [files.read_file(made.session_id, path=path).read() for path in ("/b", "/c")] == [b"1", b"2"]
    with connect(made.cdp_ws_url, max_size=None) as socket:
        commands = iter(range(1, 100))

        def call(method, session=None, **params):
            number = next(commands)
            message = {"id": number, "method": method, "params": params}
            socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
            while (answer := json.loads(socket.recv(30))).get("id") != number:
                pass
            return answer["result"]

        call("Browser.setDownloadBehavior", behavior="allow", downloadPath="/tmp/out")
        target = call("Target.createTarget", url=f"{site}/form")["targetId"]
        session = call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

        def evaluate(expression):
            params = {"expression": expression, "returnByValue": True, "awaitPromise": True}
            return call("Runtime.evaluate", session, **params)["result"]

        wait_until(lambda: evaluate("document.title")["value"] == "/form", 10, "the page", 0.05)
        call("DOM.enable", session)
        field = call("Runtime.evaluate", session, expression="document.querySelector('#file')")["result"]
        call("DOM.setFileInputFiles", session, files=["/tmp/in/a.txt"], objectId=field["objectId"])
        assert evaluate("document.querySelector('#file').files[0].text()")["value"] == "uploaded"
        evaluate("document.querySelector('#download').click()")

        def downloaded():
            with suppress(kernel.NotFoundError):
                return [file.name for file in files.list_files(made.session_id, path="/tmp/out")]

        wait_until(lambda: downloaded() == ["data.txt"], 10, "the download", 0.05)
        assert files.read_file(made.session_id, path="/tmp/out/data.txt").read() == b"downloaded"


@pytest.mark.parametrize("path", ["cdp/{id}", "live/{id}/stream"])
def test_a_url_without_its_secret_opens_nothing(client, emulator, path):
    made = client.browsers.create()
    other = client.browsers.create()
    url = f"{emulator.base_url.replace('http', 'ws')}/{path.format(id=made.session_id)}"
    wrong = re.search(r"secret=.*", other.cdp_ws_url)[0]
    for query in ("", "?secret=", f"?{wrong}", "?secret=ä"):
        with pytest.raises((InvalidStatus, ConnectionClosed)), connect(url + query) as socket:
            socket.recv(10)


def test_a_page_of_another_site_opens_no_connection(client):
    made = client.browsers.create(headless=True)
    with pytest.raises(InvalidStatus, match="403"):
        connect(made.cdp_ws_url, origin="https://evil.example")
    for origin in ("http://localhost:3000", f"chrome-extension://{'a' * 32}"):
        with connect(made.cdp_ws_url, origin=origin):
            pass


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda client: client.proxies.list(), "proxies"),
        (lambda client: client.browser_pools.list(), "browser pools"),
        (lambda client: client.extensions.list(), "extensions"),
        (lambda client: client.browsers.process.exec("b", command="ls"), "processes on a browser's machine"),
        (lambda client: client.browsers.create(proxy_id="p"), "the field proxy_id of a browser"),
        (lambda client: client.browsers.create(gpu=True), "the field gpu of a browser"),
    ],
)
def test_what_is_not_served_says_so(client, call, named):
    with pytest.raises(kernel.InternalServerError) as caught:
        list(call(client.with_options(max_retries=5)) or ())
    assert caught.value.status_code == 501
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert caught.value.body["message"] == f"The emulator does not serve {named}"


def test_the_asynchronous_sdk_makes_ten_browsers_at_once(emulator):
    async def make():
        async with kernel.AsyncKernel(base_url=emulator.base_url, api_key=emulator.api_key) as client:
            made = await asyncio.gather(*(client.browsers.create(headless=True) for _ in range(10)))
            ids = {browser.session_id for browser in made}
            await asyncio.gather(*(client.browsers.delete_by_id(browser) for browser in ids))
            return len(ids), [item async for item in client.browsers.list()]

    assert asyncio.run(make()) == (10, [])


def test_without_chromium_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    monkeypatch.setenv("HOME", str(tmp_path))
    with KernelEmulator([APP]) as emulator, pytest.raises(kernel.InternalServerError) as caught:
        client_of(emulator).browsers.create()
    assert caught.value.status_code == 501
    assert (
        "Chromium was not found. Install it (on Debian: apt-get install chromium"
        in caught.value.body["message"]
    )


def test_the_command_line_refuses_a_chromium_that_does_not_exist():
    command = [sys.executable, "-m", "airflow_provider_kernel.emulator", "--chromium=/no/chromium", str(APP)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "argument --chromium: '/no/chromium' is not a program" in done.stderr


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_nothing_is_left_of_the_browsers_of_an_emulator(monkeypatch, how):
    folder = tempfile.mkdtemp(prefix="browsers-", dir="/tmp")  # The paths of sockets must be short.
    monkeypatch.setenv("TMPDIR", folder)
    emulator = KernelEmulator([APP]).start()
    client = client_of(emulator)
    for headless in (True, False):
        browser = client.browsers.create(headless=headless)
    with suppress(kernel.APIStatusError):  # ffmpeg may be missing.
        client.browsers.replays.start(browser.session_id)
    endless = {"code": "await new Promise(() => {})", "timeout_sec": 300}

    def run_script():
        with suppress(kernel.APIError):
            client.browsers.playwright.execute(browser.session_id, **endless)

    script = Thread(target=run_script)
    script.start()
    wait_until(
        lambda: any("node" in process.name() for process in descendants(emulator.pid)), 20, "the script", 0.05
    )
    processes = descendants(emulator.pid)
    assert os.listdir(folder)

    if how == "stop":
        assert emulator.stop() == 0
    else:
        psutil.Process(emulator.pid).kill()

    wait_until(lambda: not any(is_running(process) for process in processes), 10, "no process", 0.05)
    wait_until(lambda: not os.listdir(folder), 10, "no folder", 0.05)
    emulator.stop()
    script.join()
    os.rmdir(folder)


def is_running(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@needs_ffmpeg
def test_a_replay_is_a_video_and_outlives_its_browser(client, site):
    made = client.browsers.create(start_url=site, viewport={"width": 640, "height": 480})
    replay = client.browsers.replays.start(made.session_id)
    with pytest.raises(kernel.ConflictError, match="is being recorded"):
        client.browsers.replays.download(replay.replay_id, id_or_name=made.session_id)
    client.browsers.computer.scroll(made.session_id, x=300, y=300, delta_y=3)
    client.browsers.replays.stop(replay.replay_id, id_or_name=made.session_id)
    (listed,) = client.browsers.replays.list(made.session_id)
    assert listed.finished_at > listed.started_at
    video = client.browsers.replays.download(replay.replay_id, id_or_name=made.session_id).read()
    assert video[4:8] == b"ftyp"
    client.browsers.delete_by_id(made.session_id)
    assert httpx.get(listed.replay_view_url).content == video
    assert httpx.get(listed.replay_view_url.partition("?")[0]).status_code == 404
    probe = [
        "ffprobe",
        "-v",
        "error",
        "-show_entries",
        "stream=codec_name,width,height",
        "-of",
        "csv=p=0",
        "-",
    ]
    assert subprocess.run(probe, input=video, capture_output=True).stdout.strip() == b"h264,640,480"


@needs_ffmpeg
def test_a_replay_ends_with_its_longest_duration_and_with_its_browser(client, site):
    made = client.browsers.create(headless=True)
    short = client.browsers.replays.start(made.session_id, max_duration_in_seconds=1)
    other = client.browsers.replays.start(made.session_id, framerate=5)

    def finished():
        return {it.replay_id for it in client.browsers.replays.list(made.session_id) if it.finished_at}

    wait_until(lambda: finished() == {short.replay_id}, 60, "the short replay ends")
    client.browsers.delete_by_id(made.session_id)
    assert (
        client.browsers.replays.download(other.replay_id, id_or_name=made.session_id).read()[4:8] == b"ftyp"
    )


def test_the_end_of_the_emulator_waits_for_no_video(monkeypatch, tmp_path):
    (tmp_path / "ffmpeg").write_text("#!/bin/sh\nexec sleep 600\n")
    (tmp_path / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    emulator = KernelEmulator([APP]).start()
    client = client_of(emulator)
    client.browsers.replays.start(client.browsers.create(headless=True).session_id)

    assert emulator.stop() == 0


def test_without_ffmpeg_a_replay_is_not_served(monkeypatch, tmp_path):
    for program in ("chromium", "Xvfb", "xdotool"):
        if path := next((p / program for p in map(Path, os.get_exec_path()) if (p / program).exists()), None):
            (tmp_path / program).symlink_to(path)
    chromium_needs = [
        "sh",
        "uname",
        "grep",
        "cat",
        "id",
        "dirname",
        "basename",
        "readlink",
        "expr",
        "sed",
        "head",
        "ls",
        "which",
        "mkdir",
    ]
    for program in chromium_needs:
        if (path := Path("/usr/bin", program)).exists():
            (tmp_path / program).symlink_to(path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{tmp_path}")
    with KernelEmulator([APP]) as emulator:
        client = client_of(emulator)
        browser = client.browsers.create(headless=True)
        with pytest.raises(kernel.InternalServerError) as caught:
            client.browsers.replays.start(browser.session_id)
    assert caught.value.body["message"] == (
        "The emulator does not serve replays without ffmpeg: install it (on Debian: apt-get install ffmpeg)"
    )


def test_a_person_is_told_of_browsers_that_stay_open_and_of_refused_connections():
    with emulator_process(APP) as emulator:
        invocation = emulator.invoke("leave", app="browsers", payload='{"timeout": 3600}', async_=False)
        browser_id = json.loads(invocation.output)
        emulator.wait_for(
            f"The browser {browser_id} of browsers.leave stays open: nothing deleted it. It is closed after 3600 seconds"
        )
        with pytest.raises(InvalidStatus):
            connect(f"{emulator.url.replace('http', 'ws')}/cdp/{browser_id}?secret=wrong")
        emulator.wait_for(
            f"403 WebSocket /cdp/{browser_id}: The browser is closed, or the secret of the URL is wrong"
        )
        assert "secret=" not in emulator.printed
