"""Keys by their X11 names."""

import pytest

from airflow_provider_kernel.emulator.browsers.keys import find_key, parse_combination

pytestmark = pytest.mark.no_airflow


@pytest.mark.parametrize(
    ("text", "keysyms"),
    [
        ("Return", ["Return"]),
        ("Enter", ["Return"]),
        ("ctrl+l", ["Control_L", "l"]),
        ("Ctrl+Shift+Tab", ["Control_L", "Shift_L", "Tab"]),
        ("Control_L", ["Control_L"]),
        ("Alt+Left", ["Alt_L", "Left"]),
        ("alt+left", ["Alt_L", "Left"]),
        ("super", ["Super_L"]),
        ("Page_Down", ["Next"]),
        ("Prior", ["Prior"]),
        ("pageup", ["Prior"]),
        ("F5", ["F5"]),
        ("f12", ["F12"]),
        ("a", ["a"]),
        ("A", ["A"]),
        ("5", ["5"]),
        ("minus", ["minus"]),
        ("-", ["minus"]),
        ("Ctrl+-", ["Control_L", "minus"]),
        ("ctrl+plus", ["Control_L", "plus"]),
        ("+", ["plus"]),
        ("Ctrl++", ["Control_L", "plus"]),
        ("space", ["space"]),
        (" ", ["space"]),
        ("é", ["U00E9"]),
        ("€", ["U20AC"]),
        ("ctrl + c", ["Control_L", "c"]),
    ],
)
def test_names_of_x11_and_xdotool_are_known(text, keysyms):
    assert [key.keysym for key in parse_combination(text)] == keysyms


@pytest.mark.parametrize("text", ["Foo", "Ctrl+Foo", "F99", "ctrl l"])
def test_an_unknown_name_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"unknown key '.*'; use an X11 name such as Return"):
        parse_combination(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Return", ("Enter", "Enter", 13, "\r")),
        ("a", ("a", "KeyA", 65, "a")),
        ("A", ("A", "KeyA", 65, "A")),
        ("?", ("?", "Slash", 191, "?")),
        ("Left", ("ArrowLeft", "ArrowLeft", 37, "")),
        ("é", ("é", "", 0, "é")),
    ],
)
def test_a_key_is_what_a_web_page_sees(name, expected):
    key = find_key(name)
    assert (key.key, key.code, key.number, key.text) == expected
