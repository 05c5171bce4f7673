"""
Keys by their X11 names, as Kernel's ``press_key`` takes them, and what they are in the DevTools Protocol. Pure; no I/O.

The names are those of X11's keysyms (``Return``, ``Page_Down``, ``minus``) and xdotool's aliases (``ctrl``, ``alt``).
A combination joins names by ``+``: ``Ctrl+Shift+Tab``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """
    One key.

    :param keysym: its X11 name.
    :param key: ``KeyboardEvent.key``.
    :param code: ``KeyboardEvent.code``; "" if no key of a US keyboard has it.
    :param number: the Windows virtual key code, which is ``KeyboardEvent.keyCode``.
    :param text: the text that it types; "" if it types none.
    """

    keysym: str
    key: str
    code: str
    number: int
    text: str = ""


#: The bits of ``modifiers`` in the DevTools Protocol, by ``KeyboardEvent.key``.
MODIFIERS = {"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}

_ALIASES = {
    "ctrl": "Control_L",
    "control": "Control_L",
    "alt": "Alt_L",
    "option": "Alt_L",
    "shift": "Shift_L",
    "super": "Super_L",
    "meta": "Meta_L",
    "cmd": "Super_L",
    "command": "Super_L",
    "win": "Super_L",
    "enter": "Return",
    "esc": "Escape",
    "del": "Delete",
    "ins": "Insert",
    "pageup": "Prior",
    "page_up": "Prior",
    "pgup": "Prior",
    "pagedown": "Next",
    "page_down": "Next",
    "pgdn": "Next",
    "arrowup": "Up",
    "arrowdown": "Down",
    "arrowleft": "Left",
    "arrowright": "Right",
    "altgr": "ISO_Level3_Shift",
    "numlock": "Num_Lock",
    "scrolllock": "Scroll_Lock",
    "printscreen": "Print",
    "linefeed": "Return",
}

# keysym: key, code, number, text
_NAMED = {
    "Return": ("Enter", "Enter", 13, "\r"),
    "KP_Enter": ("Enter", "NumpadEnter", 13, "\r"),
    "Tab": ("Tab", "Tab", 9, ""),
    "ISO_Left_Tab": ("Tab", "Tab", 9, ""),
    "BackSpace": ("Backspace", "Backspace", 8, ""),
    "Escape": ("Escape", "Escape", 27, ""),
    "Delete": ("Delete", "Delete", 46, ""),
    "Insert": ("Insert", "Insert", 45, ""),
    "Home": ("Home", "Home", 36, ""),
    "End": ("End", "End", 35, ""),
    "Prior": ("PageUp", "PageUp", 33, ""),
    "Next": ("PageDown", "PageDown", 34, ""),
    "Up": ("ArrowUp", "ArrowUp", 38, ""),
    "Down": ("ArrowDown", "ArrowDown", 40, ""),
    "Left": ("ArrowLeft", "ArrowLeft", 37, ""),
    "Right": ("ArrowRight", "ArrowRight", 39, ""),
    "Caps_Lock": ("CapsLock", "CapsLock", 20, ""),
    "Num_Lock": ("NumLock", "NumLock", 144, ""),
    "Scroll_Lock": ("ScrollLock", "ScrollLock", 145, ""),
    "Print": ("PrintScreen", "PrintScreen", 44, ""),
    "Pause": ("Pause", "Pause", 19, ""),
    "Break": ("Pause", "Pause", 19, ""),
    "Cancel": ("Cancel", "", 3, ""),
    "ISO_Level3_Shift": ("AltGraph", "AltRight", 18, ""),
    "Hyper_L": ("Meta", "MetaLeft", 91, ""),
    "Hyper_R": ("Meta", "MetaRight", 92, ""),
    "XF86Back": ("BrowserBack", "BrowserBack", 166, ""),
    "XF86Forward": ("BrowserForward", "BrowserForward", 167, ""),
    "XF86Reload": ("BrowserRefresh", "BrowserRefresh", 168, ""),
    "KP_Add": ("+", "NumpadAdd", 107, "+"),
    "KP_Subtract": ("-", "NumpadSubtract", 109, "-"),
    "KP_Multiply": ("*", "NumpadMultiply", 106, "*"),
    "KP_Divide": ("/", "NumpadDivide", 111, "/"),
    "KP_Decimal": (".", "NumpadDecimal", 110, "."),
    **{f"KP_{digit}": (str(digit), f"Numpad{digit}", 96 + digit, str(digit)) for digit in range(10)},
    "Menu": ("ContextMenu", "ContextMenu", 93, ""),
    "Control_L": ("Control", "ControlLeft", 17, ""),
    "Control_R": ("Control", "ControlRight", 17, ""),
    "Shift_L": ("Shift", "ShiftLeft", 16, ""),
    "Shift_R": ("Shift", "ShiftRight", 16, ""),
    "Alt_L": ("Alt", "AltLeft", 18, ""),
    "Alt_R": ("Alt", "AltRight", 18, ""),
    "Super_L": ("Meta", "MetaLeft", 91, ""),
    "Super_R": ("Meta", "MetaRight", 92, ""),
    "Meta_L": ("Meta", "MetaLeft", 91, ""),
    "Meta_R": ("Meta", "MetaRight", 92, ""),
    **{f"F{number}": (f"F{number}", f"F{number}", 111 + number, "") for number in range(1, 25)},
}

# character: keysym, code, number. Shifted characters have the code of their key.
_PUNCTUATION = {
    " ": ("space", "Space", 32),
    "-": ("minus", "Minus", 189),
    "_": ("underscore", "Minus", 189),
    "=": ("equal", "Equal", 187),
    "+": ("plus", "Equal", 187),
    "[": ("bracketleft", "BracketLeft", 219),
    "{": ("braceleft", "BracketLeft", 219),
    "]": ("bracketright", "BracketRight", 221),
    "}": ("braceright", "BracketRight", 221),
    "\\": ("backslash", "Backslash", 220),
    "|": ("bar", "Backslash", 220),
    ";": ("semicolon", "Semicolon", 186),
    ":": ("colon", "Semicolon", 186),
    "'": ("apostrophe", "Quote", 222),
    '"': ("quotedbl", "Quote", 222),
    "`": ("grave", "Backquote", 192),
    "~": ("asciitilde", "Backquote", 192),
    ",": ("comma", "Comma", 188),
    "<": ("less", "Comma", 188),
    ".": ("period", "Period", 190),
    ">": ("greater", "Period", 190),
    "/": ("slash", "Slash", 191),
    "?": ("question", "Slash", 191),
    "!": ("exclam", "Digit1", 49),
    "@": ("at", "Digit2", 50),
    "#": ("numbersign", "Digit3", 51),
    "$": ("dollar", "Digit4", 52),
    "%": ("percent", "Digit5", 53),
    "^": ("asciicircum", "Digit6", 54),
    "&": ("ampersand", "Digit7", 55),
    "*": ("asterisk", "Digit8", 56),
    "(": ("parenleft", "Digit9", 57),
    ")": ("parenright", "Digit0", 48),
}
_CHARACTERS = {keysym: character for character, (keysym, _, _) in _PUNCTUATION.items()}
_BY_LOWER_NAME = {name.lower(): name for name in _NAMED}


def parse_combination(text: str) -> list[Key]:
    """
    Return the keys of one name or of a combination, in the order in which they go down.

    :param text: such as ``Return``, ``a``, ``Ctrl+l`` or ``Ctrl++``.
    :raises ValueError: a name is unknown; the message names it.
    """
    # "+" itself may be the last key.
    names = [*text[:-1].rstrip("+").split("+"), "+"] if text.endswith("+") else text.split("+")
    return [find_key(name.strip() or name) for name in names if name]


def find_key(name: str) -> Key:
    """
    Return the key of a name. Names of more than one letter count in any case.

    :raises ValueError: the name is unknown.
    """
    name = _ALIASES.get(name.lower(), name)
    if len(name) == 1:
        return character_key(name)
    if name.lower() in _BY_LOWER_NAME:
        keysym = _BY_LOWER_NAME[name.lower()]
        return Key(keysym, *_NAMED[keysym])
    if name.lower() in _CHARACTERS:
        return character_key(_CHARACTERS[name.lower()])
    raise ValueError(
        f"unknown key {name[:50]!r}; use an X11 name such as Return, Escape, Page_Down, F5, minus, or a character"
    )


def character_key(character: str) -> Key:
    """Return the key that types a character. A character that no US keyboard has gets no code."""
    if character in "\r\n":
        return Key("Return", *_NAMED["Return"])
    if character == "\t":
        return Key("Tab", *_NAMED["Tab"])
    if character in _PUNCTUATION:
        keysym, code, number = _PUNCTUATION[character]
        return Key(keysym, character, code, number, character)
    if character.isascii() and character.isalpha():
        return Key(character, character, f"Key{character.upper()}", ord(character.upper()), character)
    if character.isascii() and character.isdigit():
        return Key(character, character, f"Digit{character}", ord(character), character)
    return Key(f"U{ord(character):04X}", character, "", 0, character)
