"""The browser of the system tests: what is there is used, and what is missing is named."""

import os

import pytest

from dev import chromium

pytestmark = pytest.mark.no_airflow


@pytest.mark.parametrize("name", chromium.NAMES)
def test_a_browser_on_the_path_is_used(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("#!/bin/sh\n")
    (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert chromium.ensure() == str(tmp_path / name)


@pytest.mark.parametrize("user", [0, 1000], ids=["root without apt-get", "a user"])
def test_a_missing_browser_that_cannot_be_installed_is_reported(tmp_path, monkeypatch, user):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(RuntimeError, match=r"Install chromium .* one of these is on the PATH: chromium, "):
        chromium.ensure()


def test_a_failed_installation_quotes_apt(tmp_path, monkeypatch):
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho no such mirror >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(RuntimeError, match="apt-get update failed:\nno such mirror"):
        chromium.ensure()


@pytest.mark.parametrize(("user", "has_sandbox"), [(0, False), (1000, True)])
def test_only_root_is_without_the_sandbox(monkeypatch, user, has_sandbox):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(chromium, "ensure", lambda: "chromium")

    options = chromium.launch_options()

    assert options["chromium_sandbox"] is has_sandbox
    assert "--no-sandbox" not in options["args"]
