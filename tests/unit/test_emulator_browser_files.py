"""The file system of a browser, and what of it the DevTools Protocol names."""

import io
import json
import stat
import struct
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_kernel.emulator.browsers import files as module
from airflow_provider_kernel.emulator.browsers.files import BrowserFiles
from airflow_provider_kernel.emulator.browsers.relay import adapt_command
from airflow_provider_kernel.emulator.contract import ApiError

pytestmark = pytest.mark.no_airflow


@pytest.fixture
def files(tmp_path):
    (tmp_path / "secret.txt").write_text("not the browser's")
    return BrowserFiles(tmp_path / "files")


def status_of(call, *arguments):
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    return caught.value.status_code


def test_a_file_is_written_read_listed_moved_and_deleted(files):
    files.write("/data/in/a.bin", b"\0\xff", "600")
    assert files.read("/data/in/a.bin") == b"\0\xff"
    assert files.info("/data/in/a.bin") | {"mod_time": ""} == {
        "name": "a.bin",
        "path": "/data/in/a.bin",
        "is_dir": False,
        "mode": "-rw-------",
        "mod_time": "",
        "size_bytes": 2,
    }
    files.move("/data/in/a.bin", "/data/out/b.bin")
    assert [entry["path"] for entry in files.list("/data")] == ["/data/in", "/data/out"]
    files.delete("/data/out/b.bin")
    files.delete_folder("/data")
    assert status_of(files.list, "/data") == 404


def test_a_new_browser_has_kernels_folders(files):
    assert [entry["name"] for entry in files.list("/")] == ["home", "tmp"]
    assert files.list("/home/kernel/Downloads") == []


@pytest.mark.parametrize(
    "path",
    [
        *("/../secret.txt", "/tmp/../../secret.txt", "secret.txt", "", None, 1, "/a\0b"),
        *("/" + "a" * 300, "/" + "a" * 100_000, "/a" * 2_000, "/half a pair \ud800"),
    ],
    ids=range(11),
)
def test_no_path_leads_out_or_is_one_that_no_file_can_have(files, path):
    calls = [
        (files.read, path),
        (files.write, path, b""),
        (files.list, path),
        (files.info, path),
        (files.create_folder, path),
        (files.delete_folder, path),
        (files.delete, path),
        (files.move, "/tmp", path),
        (files.move, path, "/tmp/x"),
        (files.set_mode, path, "600"),
        (files.zip_folder, path),
        (files.unzip, path, archive(a="1")),
    ]
    for call, *arguments in calls:
        assert status_of(call, *arguments) == 400, call


def test_no_link_leads_out(files, tmp_path):
    (files.root / "link").symlink_to(tmp_path)
    assert status_of(files.read, "/link/secret.txt") == 400
    assert status_of(files.write, "/link/new.txt", b"") == 400
    assert status_of(files.delete_folder, "/link") == 400
    assert (tmp_path / "secret.txt").exists()


def archive(*pairs, **members):
    data = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore")  # Of a name that is there twice.
        for name, content in (*pairs, *members.items()):
            file.writestr(name, content)
    return data.getvalue()


def link(name):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def damaged(data):
    """Return an archive whose last entry cannot be unpacked."""
    start = data.rindex(b"PK\x03\x04") + 40
    return data[:start] + bytes(byte ^ 0xFF for byte in data[start : start + 20]) + data[start + 20 :]


def tree(folder):
    return sorted(str(it.relative_to(folder)) for it in folder.rglob("*"))


def test_a_zip_goes_in_and_out(files):
    files.unzip("/extension", archive(**{"a.txt": "1", "sub/b.txt": "2"}))
    assert files.read("/extension/sub/b.txt") == b"2"
    with zipfile.ZipFile(io.BytesIO(files.zip_folder("/extension"))) as packed:
        assert {name for name in packed.namelist() if not name.endswith("/")} == {"a.txt", "sub/b.txt"}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no zip", id="no zip"),
        pytest.param(archive(("../../secret.txt", "x")), id="parent"),
        pytest.param(archive(("good.txt", "x"), ("a/../b", "x")), id="parent within"),
        pytest.param(archive(("/etc/passwd", "x")), id="absolute"),
        pytest.param(archive((link("a"), "/etc"), ("a/passwd", "x")), id="link"),
        pytest.param(archive(("a", "x"), ("./a", "y")), id="twice"),
        pytest.param(archive(("a", "x"), ("a/b", "y")), id="file and folder"),
        pytest.param(archive(("good.txt", "x"), ("a" * 300, "y")), id="long name"),
        pytest.param(archive(("good.txt", "x"), ("a/" * 200 + "b", "y")), id="deep"),
        pytest.param(archive(("good.txt", "x"), ("taken", "y")), id="in the place of a folder"),
        pytest.param(archive(("good.txt", "x"), ("file/b", "y")), id="below a file"),
        pytest.param(archive(("good.txt", "x"), ("out/b", "y")), id="through a link"),
        pytest.param(damaged(archive(("good.txt", "x"), ("b", "0123456789" * 100))), id="damaged"),
        pytest.param(archive(("good.txt", "x"), ("b", "0123456789" * 100))[:-40], id="cut"),
    ],
)
def test_a_zip_is_refused_and_nothing_of_it_unpacked(files, tmp_path, data):
    files.create_folder("/x/taken")
    files.write("/x/file", b"")
    (files.root / "x" / "out").symlink_to(tmp_path)
    before = tree(tmp_path)

    assert status_of(files.unzip, "/x", data) == 400
    assert tree(tmp_path) == before
    assert (tmp_path / "secret.txt").read_text() == "not the browser's"


def test_a_zip_bomb_is_refused_before_it_is_unpacked(files, tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file, file.open("zeros", "w") as entry:
        entry.write(bytes(2**20))
    data = bomb.getvalue()
    size = (2**20).to_bytes(4, "little")
    # A thousand times the same megabyte; and one that says that it is four gigabytes.
    start = data.index(b"PK\x01\x02")
    entries = [data[start:].replace(b"zeros", b"%05d" % number)[:51] for number in range(1_000)]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1_000, 1_000, 51 * 1_000, start, 0)
    for archive_ in (data[:start] + b"".join(entries) + end, data.replace(size, b"\xfe\xff\xff\xff")):
        assert status_of(files.unzip, "/x", archive_) == 400
    assert tree(tmp_path) == ["files", *tree(tmp_path)[1:]]
    assert status_of(files.info, "/x") == 404


def test_a_zip_of_too_many_entries_is_refused_before_they_are_read(files, monkeypatch):
    monkeypatch.setattr(module, "MAX_ZIP_ENTRIES", 3)
    files.unzip("/x", archive(a="", b="", c=""))

    assert status_of(files.unzip, "/y", archive(a="", b="", c="", d="")) == 400


def test_a_zip_with_an_entry_without_a_name_is_refused(files):
    content = bytearray(archive(**{"a.txt": "text"}))
    content[content.rindex(b"a.txt")] = 0

    assert status_of(files.unzip, "/x", bytes(content)) == 400


@settings(max_examples=100)
@given(st.data())
def test_a_damaged_zip_is_unpacked_or_refused_with_400(tmp_path_factory, data):
    files = BrowserFiles(tmp_path_factory.mktemp("files"))
    content = bytearray(archive(**{"a.txt": "text " * 50, "sub/b.txt": "2"}))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    status = None
    try:
        files.unzip("/x", bytes(content))
    except ApiError as error:
        status = error.status_code

    assert status in (None, 400)
    if status:
        assert status_of(files.info, "/x") == 404


@pytest.mark.parametrize("mode", ["8", "rwx", "77777", 644])
def test_a_mode_is_octal(files, mode):
    assert status_of(files.write, "/tmp/a", b"", mode) == 400


def test_the_root_cannot_be_deleted(files):
    assert status_of(files.delete_folder, "/") == 400


def command(method, **params):
    return json.dumps({"id": 1, "method": method, "params": params})


def test_browser_close_does_not_reach_the_browser(files):
    assert adapt_command(command("Browser.close"), files) is None


def test_downloads_go_to_the_browsers_files(files):
    sent = json.loads(adapt_command(command("Browser.setDownloadBehavior", downloadPath="/tmp/d"), files))
    assert sent["params"]["downloadPath"] == str(files.root / "tmp/d")
    assert (files.root / "tmp/d").is_dir()


def test_a_file_to_choose_is_the_browsers_if_it_has_one(files):
    files.write("/tmp/mine.txt", b"")
    sent = json.loads(
        adapt_command(command("DOM.setFileInputFiles", files=["/tmp/mine.txt", "/etc/other"]), files)
    )
    assert sent["params"]["files"] == [str(files.root / "tmp/mine.txt"), "/etc/other"]


@pytest.mark.parametrize(
    "text",
    ['{"method": "Browser.closeX"}', '"Browser.close"', "Browser.close", '{"id": 1}', "[]"],
)
def test_other_commands_stay_as_they_are(files, text):
    assert adapt_command(text, files) == text
