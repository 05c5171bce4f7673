"""The bodies of requests below ``/browsers``."""

import json

import pytest

from airflow_provider_kernel.emulator.browsers.computer_contract import (
    ClickMouse,
    DragMouse,
    PressKey,
    Scroll,
    TypeText,
    read_action,
    read_batch,
    read_region,
)
from airflow_provider_kernel.emulator.browsers.contract import ProfileSelection, read_create, read_update
from airflow_provider_kernel.emulator.browsers.live_view import input_command
from airflow_provider_kernel.emulator.browsers.replays import read_start_replay
from airflow_provider_kernel.emulator.browsers.script import read_execute
from airflow_provider_kernel.emulator.contract import ApiError
from airflow_provider_kernel.emulator.unserved import unserved

pytestmark = pytest.mark.no_airflow

SIZE = (1280, 800)


def body(**fields):
    return json.dumps(fields).encode()


def refusal_of(read, *arguments):
    with pytest.raises(ApiError) as caught:
        read(*arguments)
    return caught.value.status_code, caught.value.message


def test_a_browser_without_a_body_has_kernels_defaults():
    request = read_create(b"")
    assert (request.viewport, request.timeout, request.headless, request.profile) == (
        (1920, 1080),
        60,
        False,
        None,
    )


def test_what_a_template_asks_for_is_read():
    request = read_create(
        body(
            invocation_id="i",
            stealth=True,
            timeout_seconds=300,
            viewport={"width": 1280, "height": 800, "refresh_rate": 60},
            name="b",
            tags={"team": "x"},
            profile={"name": "p", "save_changes": True},
            start_url="https://example.com",
            unknown=1,
        )
    )
    assert (request.invocation_id, request.timeout, request.viewport) == ("i", 300, (1280, 800))
    assert request.profile == ProfileSelection("p", save_changes=True)
    assert request.ignored == ("stealth",)
    assert (request.name, request.tags, request.start_url) == ("b", {"team": "x"}, "https://example.com")


def test_null_is_as_if_the_field_was_not_there():
    names = (
        "invocation_id",
        "viewport",
        "timeout_seconds",
        "profile",
        "stealth",
        "proxy_id",
        "name",
        "start_url",
    )
    assert read_create(body(**dict.fromkeys(names))) == read_create(b"{}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"timeout_seconds": 9}, "timeout_seconds must be an integer from 10 to 259200"),
        ({"timeout_seconds": 259_201}, "timeout_seconds must be an integer from 10 to 259200"),
        ({"timeout_seconds": True}, "timeout_seconds must be an integer from 10 to 259200"),
        ({"timeout_seconds": 10.5}, "timeout_seconds must be an integer from 10 to 259200"),
        ({"viewport": {"width": 1}}, "viewport must have width and height, integers from 1 to 7680"),
        ({"viewport": "1280x800"}, "viewport must have width and height, integers from 1 to 7680"),
        (
            {"viewport": {"width": 0, "height": 1}},
            "viewport must have width and height, integers from 1 to 7680",
        ),
        ({"headless": "yes"}, "headless must be a boolean"),
        ({"name": "a b"}, "name must have 1 to 255 letters, digits, dots, underscores or hyphens"),
        ({"start_url": "example.com"}, "start_url must be a URL with a scheme, such as https://example.com"),
        (
            {"start_url": "file:///etc/passwd"},
            "start_url must be a URL with a scheme, such as https://example.com",
        ),
        ({"tags": {"a": 1}}, "tags must be an object of up to 50 strings"),
        *(
            (
                {"tags": tags},
                "tags must have names of 1 to 128 and values of up to 256 letters, digits, spaces or any of _.:/=+@-",
            )
            for tags in ({"": "x"}, {"é": "x"}, {"a" * 129: "x"}, {"a": "x" * 257}, {"a": "line\n"})
        ),
        ({"name": ""}, "name must not be empty: leave it out"),
        (
            {"viewport": {"width": 1, "height": 1, "refresh_rate": 0}},
            "viewport.refresh_rate must be a positive integer",
        ),
        ({"invocation_id": 1}, "invocation_id must be a string"),
    ],
)
def test_a_wrong_field_is_refused_with_what_to_write(fields, message):
    assert refusal_of(read_create, body(**fields)) == (400, message)


@pytest.mark.parametrize("name", ["../x", "..", ".", "a/b", "", 1])
def test_a_profile_is_named_without_a_path(name):
    status, message = refusal_of(read_create, body(profile={"name": name}))
    assert (status, message.partition(" of ")[0]) == (400, "profile must have a name")


@pytest.mark.parametrize(
    "field", ["proxy_id", "proxy", "extensions", "gpu", "network", "chrome_policy", "vaults", "video_memory"]
)
def test_what_would_change_what_the_browser_reaches_is_not_served(field):
    for read in (read_create, read_update):
        assert refusal_of(read, body(**{field: {"x": "y"}})) == (
            501,
            f"The emulator does not serve the field {field} of a browser",
        )


def test_an_update_leaves_what_it_does_not_name():
    update = read_update(body(viewport={"width": 10, "height": 20}))
    assert (update.viewport, update.name, update.tags, update.timeout, update.start_url) == (
        (10, 20),
        *[None] * 4,
    )


def test_a_click_has_defaults():
    assert read_action("click_mouse", body(x=1, y=2), SIZE) == ClickMouse((1, 2), "left", "click", 1, ())


def test_keys_that_are_held_are_read():
    action = read_action("press_key", body(keys=["l", "Ctrl+a"], hold_keys=["Ctrl"]), SIZE)
    assert isinstance(action, PressKey)
    assert [[key.keysym for key in keys] for keys in action.combinations] == [["l"], ["Control_L", "a"]]
    assert [key.keysym for key in action.hold] == ["Control_L"]


def test_a_drag_goes_through_all_points():
    action = read_action("drag_mouse", body(path=[[0, 0], [10, 20], [0, 0]], steps_per_segment=2), SIZE)
    assert isinstance(action, DragMouse)
    assert action.path == ((0, 0), (5, 10), (10, 20), (5, 10), (0, 0))


def test_a_scroll_of_more_clicks_than_any_page_has_is_shortened():
    assert read_action("scroll", body(x=1, y=1, delta_y=-5000), SIZE) == Scroll((1, 1), 0, -1000, ())


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("click_mouse", {"y": 1}, "x must be an integer from 0 to 1279: the picture is 1280x800"),
        ("click_mouse", {"x": 1280, "y": 1}, "x must be an integer from 0 to 1279: the picture is 1280x800"),
        ("click_mouse", {"x": 1, "y": 800}, "y must be an integer from 0 to 799: the picture is 1280x800"),
        ("click_mouse", {"x": 1.5, "y": 1}, "x must be an integer from 0 to 1279: the picture is 1280x800"),
        (
            "click_mouse",
            {"x": 1, "y": 1, "button": "x"},
            "button must be one of left, right, middle, back, forward",
        ),
        ("click_mouse", {"x": 1, "y": 1, "num_clicks": 0}, "num_clicks must be an integer from 1 to 10"),
        ("press_key", {"keys": []}, "keys must be a list of key names"),
        ("press_key", {"keys": "Return"}, "keys must be a list of key names"),
        ("press_key", {"keys": ["a"], "hold_keys": "Ctrl"}, "hold_keys must be a list of key names"),
        ("type_text", {}, "text must be a string"),
        ("type_text", {"text": "a", "delay": -1}, "delay must be an integer from 0 to 60000"),
        ("drag_mouse", {"path": [[1, 1]]}, "path must be a list of at least 2 points"),
        ("drag_mouse", {"path": [[1, 1], [1]]}, "each point of path must be a list [x, y]"),
        ("sleep", {}, "duration_ms must be an integer from 0 to 60000"),
        ("set_cursor", {}, "hidden must be a boolean"),
    ],
)
def test_a_wrong_action_is_refused_with_what_to_write(kind, fields, message):
    assert refusal_of(read_action, kind, body(**fields), SIZE) == (400, message)


def test_a_batch_is_read_in_order():
    actions = [
        {"type": "type_text", "type_text": {"text": "a"}},
        {"type": "sleep", "sleep": {"duration_ms": 5}},
    ]
    assert read_batch(body(actions=actions), SIZE)[0] == TypeText("a", None)
    assert len(read_batch(body(actions=actions), SIZE)) == 2


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([], "actions must be a list with at least one action"),
        ([{"type": "type_text"}], "actions[0] must have a type (click_mouse, "),
        ([{"type": "fly", "fly": {}}], "actions[0] must have a type (click_mouse, "),
        (
            [
                {"type": "sleep", "sleep": {"duration_ms": 1}},
                {"type": "click_mouse", "click_mouse": {"x": -1, "y": 0}},
            ],
            "actions[1]: x must be an integer from 0 to 1279",
        ),
    ],
)
def test_a_wrong_batch_is_refused_before_its_first_action(actions, message):
    status, text = refusal_of(read_batch, body(actions=actions), SIZE)
    assert (status, text[: len(message)]) == (400, message)


def test_a_region_must_be_within_the_picture():
    region = {"x": 1200, "y": 0, "width": 80, "height": 800}
    assert read_region(body(region=region), SIZE) == (1200, 0, 80, 800)
    assert read_region(b"", SIZE) == (0, 0, *SIZE)
    message = "region must be within the picture of 1280x800"
    assert refusal_of(read_region, body(region=region | {"width": 81}), SIZE) == (400, message)


@pytest.mark.parametrize("fields", [{}, {"code": " "}, {"code": 1}, {"code": "1", "timeout_sec": 0}])
def test_a_script_needs_code_and_may_name_its_time(fields):
    assert refusal_of(read_execute, body(**fields))[0] == 400


def test_a_replay_with_audio_is_not_served():
    assert refusal_of(read_start_replay, body(record_audio=True))[0] == 501
    assert refusal_of(read_start_replay, body(framerate=21))[0] == 400
    assert read_start_replay(b"").framerate == 10


def test_the_live_view_can_only_send_input():
    key = {
        "type": "keyDown",
        "modifiers": 0,
        "key": "a",
        "code": "KeyA",
        "keyCode": 65,
        "text": "a",
        "more": 1,
    }
    assert input_command(key) == (
        "Input.dispatchKeyEvent",
        {
            "type": "keyDown",
            "modifiers": 0,
            "key": "a",
            "code": "KeyA",
            "windowsVirtualKeyCode": 65,
            "text": "a",
        },
    )
    with pytest.raises(ValueError, match="unknown type"):
        input_command({"type": "Browser.close"})


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("/proxies", "proxies"),
        ("/browser_pools/x/acquire", "browser pools"),
        ("/auth/connections", "managed auth"),
        ("/extensions", "extensions"),
        ("/browsers/b/process/exec", "processes on a browser's machine"),
        ("/browsers/b/fs/watch", "this call of a browser's file system"),
        ("/browsers/b/playwright/executors", "executors of Playwright scripts"),
        ("/org/credential_providers/p/items", "credential providers"),
        ("/org/limits", "the organization, but for reading /org/entitlements and /org/limits"),
        ("/audit-logs/export/chunk", "audit logs"),
        ("/browsers/b/nothing", None),
        ("/nothing", None),
        ("/", None),
    ],
)
def test_what_kernel_has_and_the_emulator_has_not_is_named(path, what):
    assert unserved(path) == what
