"""Which files an app consists of, and whether they have changed."""

import importlib
import os
import sys
import sysconfig
from pathlib import Path

import pytest

from airflow_provider_kernel.emulator.source_files import Stamps, forget_cached, imported_files

pytestmark = pytest.mark.no_airflow

#: Before and after each time that a test gives a file.
LONG_AGO, NOW = 10**18, 3 * 10**18


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Import files of a folder by their names; what is imported is forgotten after the test."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def import_(*names):
        importlib.invalidate_caches()
        return [importlib.import_module(name) for name in names]

    yield import_
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(file, text="", seconds=2 * 10**9):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (seconds, seconds))
    return str(file)


def test_files_are_those_of_the_folder_without_installed_packages(tmp_path, modules, monkeypatch):
    write(tmp_path / "venv" / "lib" / "site-packages" / "installed_one.py")
    monkeypatch.syspath_prepend(tmp_path / "venv" / "lib" / "site-packages")
    expected = [
        write(tmp_path / "package_one" / "__init__.py"),
        write(tmp_path / "package_one" / "part.py"),
        write(tmp_path / "single_one.py"),
    ]
    write(tmp_path / "never_imported.py")
    modules("package_one.part", "single_one", "installed_one")
    monkeypatch.setitem(sys.modules, "strange_one", None)

    assert imported_files(tmp_path.resolve()) == expected


def test_files_do_not_contain_the_standard_library_when_it_is_below_the_folder():
    stdlib = Path(sysconfig.get_path("stdlib")).resolve()

    assert not [file for file in imported_files(stdlib.parent) if Path(file).is_relative_to(stdlib)]


@pytest.mark.parametrize(
    ("text", "broken"),
    [("import broken_one", "1 / 0"), ("import broken_one", "x ="), ("import broken_one.part", None)],
)
def test_files_are_also_those_that_an_error_is_about(tmp_path, modules, text, broken):
    write(tmp_path / "main_one.py", text)
    if broken is not None:
        write(tmp_path / "broken_one.py", broken)

    with pytest.raises((ArithmeticError, SyntaxError, ModuleNotFoundError)) as caught:
        modules("main_one")

    assert str(tmp_path / "broken_one.py") in imported_files(tmp_path.resolve(), caught.value)


def test_stamps_name_the_files_that_have_changed(tmp_path):
    files = [write(tmp_path / name, "1") for name in ("same", "longer", "later", "gone", "made")]
    os.unlink(files[4])
    stamps = Stamps(files, LONG_AGO + NOW, NOW)
    assert stamps.changed() == []

    write(tmp_path / "longer", "11")
    write(tmp_path / "later", "1", seconds=2 * 10**9 + 1)
    os.unlink(files[3])
    write(tmp_path / "made")

    assert stamps.changed() == files[1:]


@pytest.mark.parametrize(
    ("started", "now", "is_changed"),
    [
        (2 * 10**18, 2 * 10**18, True),
        (2 * 10**18 + 1, NOW, False),
        # The clock of a network drive is ahead: the file would count as changed for ever.
        (LONG_AGO, 2 * 10**18 - 1, False),
    ],
)
def test_file_that_was_changed_during_the_import_counts_as_changed(tmp_path, started, now, is_changed):
    file = write(tmp_path / "app.py")

    assert Stamps([file], started, now).changed() == ([file] if is_changed else [])


def test_forgotten_cache_does_not_hide_a_change_within_a_second_that_keeps_the_size(
    tmp_path, modules, monkeypatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = write(tmp_path / "cached_one.py", "VALUE = 1")
    modules("cached_one")
    write(tmp_path / "cached_one.py", "VALUE = 2")
    del sys.modules["cached_one"]
    [stale] = modules("cached_one")
    assert stale.VALUE == 1

    forget_cached([file, str(tmp_path / "missing.py")])
    del sys.modules["cached_one"]

    assert modules("cached_one")[0].VALUE == 2
