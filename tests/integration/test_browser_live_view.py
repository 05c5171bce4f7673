"""The live view of a browser, in another browser."""

import pytest
from playwright.sync_api import expect

from airflow_provider_kernel.testing import KernelEmulator
from dev.wait import wait_until
from tests.integration.browsing import APP, HEIGHT, WIDTH, Person, needs_chromium
from tests.integration.conftest import client_of

pytestmark = [pytest.mark.no_airflow, needs_chromium]


@pytest.fixture(scope="module")
def emulator():
    with KernelEmulator([APP]) as emulator:
        yield emulator


@pytest.fixture
def watched(emulator, site):
    client = client_of(emulator)
    size = {"width": WIDTH, "height": HEIGHT}
    made = client.browsers.create(viewport=size, start_url=f"{site}/live", timeout_seconds=600)
    person = Person(client, made.session_id)
    person.url = made.browser_live_view_url
    person.sees("document.title", "/live")
    yield person
    for browser in client.browsers.list().items:
        client.browsers.delete_by_id(browser.session_id)


@pytest.fixture
def view(chrome, watched):
    page = chrome.new_page(viewport={"width": 900, "height": 600})
    page.problems = []
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.goto(watched.url)
    expect(page.locator("#status")).to_be_hidden(timeout=20_000)
    yield page
    assert page.problems == []
    page.close()


def point(view, watched, x, y):
    """Return where a point of the watched page is in the view."""
    box = view.locator("canvas").bounding_box()
    width, height = watched.page("[innerWidth, innerHeight]")
    assert abs(box["width"] / box["height"] - width / height) < 0.02
    return box["x"] + x * box["width"] / width, box["y"] + y * box["height"] / height


def test_clicks_and_keys_reach_the_page(view, watched):
    view.mouse.click(*point(view, watched, 60, 140))
    watched.sees("clicks", ["left1"])
    view.mouse.click(*point(view, watched, 100, 50))
    view.keyboard.type("typed")
    view.keyboard.press("Shift+ArrowLeft")
    view.keyboard.press("Delete")
    watched.sees("document.querySelector('#text').value", "type")
    view.mouse.move(*point(view, watched, 500, 500))
    view.mouse.wheel(0, 400)
    wait_until(lambda: watched.page("scrollY") > 100, 20, "the page is scrolled", 0.05)


def test_text_that_no_key_gives_and_the_readers_own_clipboard_reach_the_page(view, watched):
    view.mouse.click(*point(view, watched, 100, 50))
    view.keyboard.insert_text("é日")
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.evaluate("navigator.clipboard.writeText('pasted')")
    view.keyboard.press("Control+v")
    watched.sees("document.querySelector('#text').value", "é日pasted")


def test_a_button_that_is_released_beside_the_picture_is_released(view, watched):
    watched.page("onmouseup = () => clicks.push('up')")
    x, y = point(view, watched, 500, 5)
    view.mouse.move(x, y)
    view.mouse.down()
    view.mouse.move(x, 2)
    view.mouse.up()
    watched.sees("clicks", ["up"])


def test_a_thumbnail_is_no_use_of_the_browser(chrome, watched):
    page = chrome.new_page(viewport={"width": 300, "height": 200})
    page.goto(f"{watched.url}&thumbnail")
    expect(page.locator("#status")).to_be_hidden(timeout=20_000)
    watched.client.browsers.update(watched.id, viewport={"width": 640, "height": 480})
    page.close()


def colour(view):
    """Return the colour in the middle of the picture."""
    return view.locator("canvas").evaluate(
        "it => [...it.getContext('2d').getImageData(it.width / 2, it.height / 2, 1, 1).data].slice(0, 3)"
    )


def test_the_picture_follows_the_page_and_its_tabs(view, watched, site):
    watched.page("(document.body.style.background = 'rgb(255, 0, 0)')")
    wait_until(lambda: colour(view)[0] > 240 and colour(view)[1] < 15, 20, "the picture is red", 0.05)
    watched.evaluate(
        "const other = await context.newPage();"
        "await other.setContent('<body style=\"background: rgb(0, 0, 255)\">');"
    )
    wait_until(lambda: colour(view)[2] > 240 and colour(view)[0] < 15, 20, "the picture is blue", 0.05)


def test_a_reader_without_rights_only_watches(chrome, watched):
    page = chrome.new_page(viewport={"width": 900, "height": 600})
    page.goto(f"{watched.url}&readOnly=true")
    expect(page.locator("#status")).to_be_hidden(timeout=20_000)
    page.mouse.click(*point(page, watched, 60, 140))
    page.keyboard.type("typed")
    assert watched.page("[clicks.length, document.querySelector('#text').value]") == [0, ""]
    page.close()


def test_the_end_of_the_browser_is_said(view, watched):
    watched.client.browsers.delete_by_id(watched.id)
    expect(view.locator("#status")).to_have_text("The browser is closed, or this address is wrong.")


def test_a_wrong_secret_shows_nothing(chrome, watched):
    page = chrome.new_page()
    page.goto(watched.url.replace("secret=", "secret=wrong"))
    expect(page.locator("#status")).to_have_text("The browser is closed, or this address is wrong.")
    page.close()
