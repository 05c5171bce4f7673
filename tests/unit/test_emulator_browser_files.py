"""The file system of a browser, and what of it the DevTools Protocol names."""

import io
import json
import zipfile

import pytest

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
    "path", ["/../secret.txt", "/tmp/../../secret.txt", "secret.txt", "", None, 1, "/a\0b"]
)
def test_no_path_leads_out(files, path):
    assert status_of(files.read, path) == 400
    assert status_of(files.write, path, b"") == 400
    assert status_of(files.move, "/tmp", path) == 400


def test_no_link_leads_out(files, tmp_path):
    (files.root / "link").symlink_to(tmp_path)
    assert status_of(files.read, "/link/secret.txt") == 400
    assert status_of(files.write, "/link/new.txt", b"") == 400
    assert status_of(files.delete_folder, "/link") == 400
    assert (tmp_path / "secret.txt").exists()


def archive(**members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()


def test_a_zip_goes_in_and_out(files):
    files.unzip("/extension", archive(**{"a.txt": "1", "sub/b.txt": "2"}))
    assert files.read("/extension/sub/b.txt") == b"2"
    with zipfile.ZipFile(io.BytesIO(files.zip_folder("/extension"))) as packed:
        assert {name for name in packed.namelist() if not name.endswith("/")} == {"a.txt", "sub/b.txt"}


@pytest.mark.parametrize("data", [b"no zip", archive(**{"../../secret.txt": "x"})])
def test_a_zip_that_is_none_or_leads_out_is_refused(files, tmp_path, data):
    assert status_of(files.unzip, "/x", data) == 400
    assert (tmp_path / "secret.txt").read_text() == "not the browser's"


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
