"""Mouse, keyboard, clipboard and screenshots of browsers: on a screen of their own, and by the DevTools Protocol."""

import base64
import os
import sys
from pathlib import Path

import kernel
import pytest

from airflow_provider_kernel.testing import KernelEmulator
from dev import chromium
from dev.wait import wait_until
from tests.integration.browsing import APP, HEIGHT, WIDTH, Person, needs_chromium, needs_screen, png_size
from tests.integration.conftest import client_of
from tests.integration.emulator_process import emulator_process

pytestmark = [pytest.mark.no_airflow, needs_chromium]


@pytest.fixture(scope="module")
def emulator():
    with KernelEmulator([APP]) as emulator:
        yield emulator


@pytest.fixture(scope="module", params=[pytest.param("screen", marks=needs_screen), "protocol"])
def browser(request, emulator):
    """A browser for all tests of a module, with the distance from the top of its picture to that of its page."""
    client = client_of(emulator)
    is_headless = request.param == "protocol"
    size = {"width": WIDTH, "height": HEIGHT}
    made = client.browsers.create(headless=is_headless, viewport=size, timeout_seconds=600)
    person = Person(client, made.session_id)
    person.top = 0 if is_headless else HEIGHT - person.page("innerHeight")
    return person


@pytest.fixture
def person(browser, site):
    browser.open_to_click(f"{site}/text")
    return browser


def at(person, y, x=50):
    return {"x": x, "y": y + person.top}


def test_a_click_reaches_what_is_there(person):
    person.computer.click_mouse(person.id, **at(person, 140))
    person.sees("clicks", ["left1"])
    position = person.computer.get_mouse_position(person.id)
    assert {"x": position.x, "y": position.y} == at(person, 140)


def test_the_other_buttons_click_too(person):
    person.computer.click_mouse(person.id, **at(person, 140), button="middle")
    person.sees("clicks", ["other1"])
    person.computer.click_mouse(person.id, **at(person, 140), button="right")
    person.sees("clicks.includes('right')", value=True)
    person.computer.press_key(person.id, keys=["Escape"])


def test_a_double_click_selects_a_word_and_a_triple_click_the_line(person):
    selected = "(t => t.value.slice(t.selectionStart, t.selectionEnd))(document.querySelector('#text'))"
    person.computer.click_mouse(person.id, **at(person, 33, x=30), num_clicks=2)
    person.sees(f"{selected}.trim()", "two")
    person.computer.click_mouse(person.id, **at(person, 33, x=200))
    person.computer.click_mouse(person.id, **at(person, 33, x=30), num_clicks=3)
    person.sees(f"{selected}.trim()", "two words")


def test_a_button_can_be_held(person):
    start, end = at(person, 220, x=27), at(person, 220, x=300)
    person.computer.click_mouse(person.id, **start, click_type="down")
    person.computer.move_mouse(person.id, **end)
    person.computer.click_mouse(person.id, **end, click_type="up")
    person.sees("Number(range.value) > 80", value=True)


def test_a_drag_moves_a_slider(person):
    start, end = at(person, 220, x=27), at(person, 220, x=170)
    person.computer.drag_mouse(person.id, path=[[start["x"], start["y"]], [end["x"], end["y"]]], delay=50)
    person.sees("Number(range.value) > 30 && Number(range.value) < 70", value=True)


def test_the_wheel_scrolls_both_ways(person):
    person.computer.scroll(person.id, **at(person, 500), delta_y=10)
    wait_until(lambda: person.page("scrollY") > 300, 20, "the page is scrolled", 0.05)
    person.computer.scroll(person.id, **at(person, 500), delta_y=-20)
    person.sees("scrollY", 0)


TEXTS = [
    "plain text",
    "Ünïcödé €",
    "日本",
    "a\tb",
    "line\nline",
    "<b>&amp; \"quoted\" 'x' \\ $HOME `id` --help",
    "-",
    " ",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_text_is_typed_as_it_is(person, text):
    person.page("(document.querySelector('#text').value = '', document.querySelector('#text').focus())")
    # A tab moves on to the button.
    typed, is_tab = text.partition("\t")[0], "\t" in text
    person.computer.type_text(person.id, text=text)
    person.sees("document.querySelector('#text').value", typed)
    if is_tab:
        person.sees("document.activeElement.tagName", "BUTTON")


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        ({"keys": ["Return"]}, ["false,false,false,Enter"]),
        ({"keys": ["a", "B", "minus"]}, ["false,false,false,a", "B", "false,false,false,-"]),
        ({"keys": ["ctrl+b"]}, ["true,false,false,b"]),
        ({"keys": ["Ctrl+Shift+Left"]}, ["true,false,true,ArrowLeft"]),
        ({"keys": ["b"], "hold_keys": ["Control_L"]}, ["true,false,false,b"]),
        ({"keys": ["Page_Down"], "hold_keys": ["Shift"]}, ["false,false,true,PageDown"]),
        ({"keys": ["x"], "duration": 50}, ["false,false,false,x"]),
    ],
)
def test_keys_have_xdotools_names(person, request_, seen):
    person.page("document.activeElement.blur()")
    person.computer.click_mouse(person.id, **at(person, 600, x=700))
    person.computer.press_key(person.id, **request_)
    wanted = "keys.filter(key => !/(Control|Shift|Alt)$/.test(key)).map(key => key.endsWith('B') ? 'B' : key)"
    person.sees(f"[...new Set({wanted})]", seen)


def test_no_modifier_stays_down(person):
    with pytest.raises(kernel.BadRequestError, match="unknown key 'Nonsense'"):
        person.computer.press_key(person.id, keys=["Ctrl+Nonsense"], hold_keys=["Shift"])
    person.computer.press_key(person.id, keys=["F8"], hold_keys=["Ctrl", "Shift"])
    person.page("(keys = [])")
    person.computer.press_key(person.id, keys=["z"])
    person.sees("keys", ["false,false,false,z"])


def test_an_agent_goes_to_an_address_and_back(person, site):
    person.computer.press_key(person.id, keys=["l"], hold_keys=["Ctrl"])
    person.computer.press_key(person.id, keys=["ctrl+a"])
    person.computer.type_text(person.id, text=f"{site}/typed")
    person.computer.press_key(person.id, keys=["Return"])
    person.sees("location.pathname", "/typed")
    person.computer.press_key(person.id, keys=["Alt+Left"])
    person.sees("location.pathname", "/text")
    person.computer.press_key(person.id, keys=["Right"], hold_keys=["Alt_L"])
    person.sees("location.pathname", "/typed")
    person.page("(window.old = true)")
    person.computer.press_key(person.id, keys=["F5"])
    person.sees("[location.pathname, window.old ?? null]", ["/typed", None])


def test_an_agent_reads_the_address_by_the_clipboard(person, site):
    for keys in (["Ctrl+l"], ["Ctrl+a"], ["Ctrl+c"], ["Escape"]):
        person.computer.press_key(person.id, keys=keys)
    read = person.computer.read_clipboard
    wait_until(lambda: read(person.id).text == f"{site}/text", 20, "the address is copied", 0.05)


def test_the_clipboard_is_shared_with_the_page(person):
    person.computer.write_clipboard(person.id, text="written € 日本\nlines")
    assert person.computer.read_clipboard(person.id).text == "written € 日本\nlines"
    person.computer.click_mouse(person.id, **at(person, 33, x=200))
    person.computer.press_key(person.id, keys=["Ctrl+a"])
    person.computer.press_key(person.id, keys=["Ctrl+v"])
    person.sees("document.querySelector('#text').value", "written € 日本\nlines")


def test_a_batch_is_carried_out_in_order(person):
    person.computer.batch(
        person.id,
        actions=[
            {"type": "click_mouse", "click_mouse": at(person, 33, x=200)},
            {"type": "press_key", "press_key": {"keys": ["a"], "hold_keys": ["Ctrl"]}},
            {"type": "type_text", "type_text": {"text": "new"}},
            {"type": "sleep", "sleep": {"duration_ms": 10}},
            {"type": "set_cursor", "set_cursor": {"hidden": True}},
            {"type": "click_mouse", "click_mouse": at(person, 140)},
        ],
    )
    person.sees("[document.querySelector('#text').value, ...clicks]", ["new", "left1"])


def test_a_wrong_batch_does_nothing(person):
    actions = [{"type": "click_mouse", "click_mouse": at(person, 140)}, {"type": "fly", "fly": {}}]
    with pytest.raises(kernel.BadRequestError, match=r"actions\[1\] must have a type"):
        person.computer.batch(person.id, actions=actions)
    assert person.page("clicks") == []


def test_a_screenshot_shows_the_page_and_can_be_cut(person):
    whole = person.computer.capture_screenshot(person.id).read()
    assert png_size(whole) == (WIDTH, HEIGHT)
    region = {"x": 10, "y": 20, "width": 30, "height": 40}
    assert png_size(person.computer.capture_screenshot(person.id, region=region).read()) == (30, 40)
    person.page(
        "(document.body.innerHTML = '', document.body.style.background = '#f00', document.body.offsetTop)"
    )

    wait_until(lambda: pixel_of(person, at(person, 300)) == [255, 0, 0, 255], 20, "the picture is red", 0.05)


def pixel_of(person, place):
    region = {**place, "width": 1, "height": 1}
    return colour_in(person, person.computer.capture_screenshot(person.id, region=region).read(), x=0, y=0)


def colour_in(person, png, x, y):
    """Return the colour of a point of a picture, which the browser itself decodes."""
    script = "const i = new Image(); i.src = 'data:image/png;base64,%s'; await i.decode();"
    draw = "const c = new OffscreenCanvas(i.width, i.height).getContext('2d'); c.drawImage(i, 0, 0);"
    colour = f"return [...c.getImageData({x}, {y}, 1, 1).data]"
    return person.page(f"(async () => {{ {script % base64.b64encode(png).decode()} {draw} {colour} }})()")


def test_a_screenshot_of_a_scrolled_page_shows_what_is_seen(person):
    person.page(
        "(document.body.style.background = 'linear-gradient(#f00 0 2500px, #00f 2500px)', scrollTo(0, 3000))"
    )
    wait_until(lambda: pixel_of(person, at(person, 300)) == [0, 0, 255, 255], 20, "the picture is blue", 0.05)
    whole = person.computer.capture_screenshot(person.id).read()
    assert colour_in(person, whole, **at(person, 300)) == [0, 0, 255, 255]


def test_a_dialog_does_not_stop_scripts(person):
    person.page("void setTimeout(() => { window.answer = confirm('Sure?') }, 100)")
    script = "return await page.evaluate(() => window.answer ?? null)"
    wait_until(lambda: person.evaluate(script) is False, 30, "the dialog is dismissed", 0.1)


def test_a_point_outside_the_picture_is_refused(person):
    with pytest.raises(kernel.BadRequestError, match=f"the picture is {WIDTH}x{HEIGHT}"):
        person.computer.click_mouse(person.id, x=WIDTH, y=0)


@pytest.mark.parametrize("programs", [pytest.param("all", marks=needs_screen), "no xdotool"])
def test_which_controls_run_is_said_once(tmp_path, programs):
    path = os.environ["PATH"]
    if programs != "all":
        (tmp_path / "chromium").write_text(f'#!/bin/sh\nPATH={path} exec {chromium.find()} "$@"')
        (tmp_path / "chromium").chmod(0o755)
        path = f"{Path(sys.executable).parent}:{tmp_path}"
    with emulator_process(APP, PATH=path) as emulator:
        for _ in range(2):
            made = emulator.client.browsers.create(stealth=True, viewport={"width": 640, "height": 480})
            emulator.client.browsers.delete_by_id(made.session_id)
        emulator.stop()
        told = {
            "all": "go to the whole window, by xdotool on a screen of its own (Xvfb).",
            "no xdotool": "go to the page alone, by the DevTools Protocol; for the whole window, as on Kernel, install xvfb "
            "and xdotool.",
        }
        assert emulator.lines == [
            "Accepted without effect on browsers: stealth.",
            f"Computer controls of browsers {told[programs]}",
        ]


def test_a_page_that_is_just_being_opened_takes_clicks_and_gives_its_picture(emulator, site):
    client = client_of(emulator)
    for _ in range(5):
        made = client.browsers.create(headless=True, start_url=f"{site}/text")
        client.browsers.computer.click_mouse(made.session_id, x=500, y=500)
        assert png_size(client.browsers.computer.capture_screenshot(made.session_id).read()) == (1920, 1080)
        client.browsers.delete_by_id(made.session_id)
