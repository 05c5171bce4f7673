"""The environment variables of apps: the terminal's, --env and --env-file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.environment import (
    OptionError,
    inherited_variables,
    read_env_file,
    read_option,
)

pytestmark = pytest.mark.no_airflow


def test_app_inherits_only_variables_that_programs_need():
    needed = {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LC_ALL": "C",
        "LC_TIME": "C",
        "PYTHONPATH": "src",
        "TZ": "UTC",
    }
    secret = [
        "AIRFLOW_CONN_DB",
        "AIRFLOW__CORE__FERNET_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "KERNEL_API_KEY",
        "HTTPS_PROXY",
        "SSH_AUTH_SOCK",
        "PYTHONANYWHERE_API_TOKEN",
        "PATH_TO_SECRET",
        "XPATH",
        "path",
    ]

    assert inherited_variables(needed | dict.fromkeys(secret, "secret")) == needed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=1", ("A", "1")),
        ("A=", ("A", "")),
        ("a_1=x=y z ", ("a_1", "x=y z ")),
        ("HOME", ("HOME", "/home/x")),
        ("EMPTY", ("EMPTY", "")),
    ],
)
def test_env_option_has_a_value_or_takes_the_terminals(text, expected):
    assert read_option(text, {"HOME": "/home/x", "EMPTY": ""}) == expected


@pytest.mark.parametrize(
    "text", ["", "=secret", "1A=secret", "A-B=secret", "A B=secret", "Ä=secret", "se cret"]
)
def test_env_option_is_refused_without_quoting_it_when_the_name_is_invalid(text):
    with pytest.raises(OptionError, match=r"^--env must be NAME=VALUE or NAME;") as caught:
        read_option(text, {})
    assert "secret" not in str(caught.value)


def test_env_option_is_refused_by_name_when_the_terminal_lacks_the_variable():
    with pytest.raises(OptionError, match=r"^--env TOKEN: the variable is not set; "):
        read_option("TOKEN", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\n  # A=1\n#\n", {}),
        ("A=1", {"A": "1"}),
        ("A=1\nB=2\nA=3\n", {"A": "3", "B": "2"}),
        ("export A = 1 \n\texport\tB=2", {"A": "1", "B": "2"}),
        ("A=\nB= \nC=''\nD=\"\"", {"A": "", "B": "", "C": "", "D": ""}),
        ("A=x y#z  # a comment", {"A": "x y#z"}),
        ("A= # a comment", {"A": ""}),
        ("A='x # y'  # a comment", {"A": "x # y"}),
        ("A=it's\\n", {"A": "it's\\n"}),
        ("A='$x \\n \"'", {"A": '$x \\n "'}),
        (r"""A="\$x \\n \n \r \" ' #" """, {"A": "$x \\n \n \r \" ' #"}),
        ("A='one\ntwo'\nB=3", {"A": "one\ntwo", "B": "3"}),
        ('A="one\ntwo\n"\nB=3', {"A": "one\ntwo\n", "B": "3"}),
        ("A=https://x.example/?a=b&c", {"A": "https://x.example/?a=b&c"}),
        ("export=1", {"export": "1"}),
    ],
)
def test_env_file_follows_the_dotenv_format(text, expected):
    assert read_env_file(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        "secret",
        "=secret",
        "A secret",
        "1A=secret",
        "A-B=secret",
        "A: secret",
        "A='secret",
        'A="secret',
        "A='x'secret",
        "A='x''secret'",
        "A='x'#secret",
        "A=#secret",
        'A="\\secret"',
        'A="$secret"',
        "A=${secret}",
        "A=x$secret",
        "A=secret\0",
        "A='secret\0'",
    ],
)
def test_env_file_line_is_refused_by_number_without_quoting_it_when_it_is_invalid(line):
    with pytest.raises(OptionError, match=r"^line 3 is not NAME=VALUE") as caught:
        read_env_file(f"# a comment\nB=1\n{line}\nC=3\n")
    assert "secret" not in str(caught.value)


@given(st.text(st.characters(blacklist_characters="'\0")))
def test_single_quotes_accept_any_text(value):
    assert read_env_file(f"A='{value}' # a comment\nB=1") == {"A": value, "B": "1"}
