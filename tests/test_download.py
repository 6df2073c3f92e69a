"""Downloads: resumed, checked, whole or not at all; archives that stay inside their folder.

Servers are real ones on the loopback interface, or file:// addresses; nothing leaves the machine.
"""

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from liveness import download
from liveness.base.errors import UserError
from liveness.downloads import catalogue, disk, fetch, transfer, unpack

KEY = catalogue.PRETRAINED[0]
CONFIRM_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses. Would you still like to download this file?</p>
<form action="/other" method="get"><input type="hidden" name="noise" value="1"></form>
<form id="download-form" action="{action}" method="get">
<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="{id}">
<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="a-b&amp;c"></form></body></html>"""
QUOTA_PAGE = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p>Sorry, you can't view or download this file at this time.</p>
<p>Too many users have viewed or downloaded this file recently.</p></body></html>"""


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files`` with Range and If-Range; ``server`` attributes make it misbehave."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        path, _, query = self.path.partition("?")
        fields = dict(urllib.parse.parse_qsl(query))
        server.requests.append((path, fields, self.headers.get("Range")))
        if server.errors:
            return self.answer(server.errors.pop(0), b"trouble", "text/plain")
        if path == "/drive":
            if server.quota:
                return self.answer(200, QUOTA_PAGE.encode(), "text/html; charset=utf-8")
            if fields.get("confirm") != "t" or fields.get("uuid") != "a-b&c":
                page = CONFIRM_PAGE.format(id=fields["id"], action=server.form_action)
                return self.answer(200, page.encode(), "text/html; charset=utf-8")
            path = f"/{fields['id']}"
        if server.endless:
            return self.endless()
        if path not in server.files:
            return self.answer(404, b"<html><title>Not Found</title></html>", "text/html")
        return self.file(server.files[path])

    def file(self, data: bytes) -> None:
        tag = f'"{hashlib.md5(data).hexdigest()}"'
        headers = {"ETag": tag, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = 0
        if wanted and self.server.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(wanted[1])
            if start >= len(data):
                return self.answer(416, b"", "text/plain", {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if self.server.break_after:
            # Promise everything, send a part, hang up.
            sent = body[: self.server.break_after.pop(0)]
            self.answer(206 if start else 200, sent, "application/octet-stream", headers, len(body))
            self.close_connection = True
            return None
        return self.answer(206 if start else 200, body, "application/octet-stream", headers)

    def endless(self) -> None:
        """A reply without a length, which has no end."""
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                self.wfile.write(bytes([7]) * (1 << 16))
                self.server.sent += 1 << 16

    def answer(self, code, body, kind, headers=None, length=None):
        self.send_response(code)
        for key, value in {"Content-Type": kind, **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.files, served.requests, served.break_after, served.errors = {}, [], [], []
    served.endless, served.sent = False, 0
    served.quota, served.ranges, served.form_action = False, True, "/drive"
    served.url = f"http://127.0.0.1:{served.server_port}"
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "WAIT", 0.01)
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def data() -> bytes:
    """Three megabytes that do not look like anything."""
    return b"\x80\x02" + np.random.default_rng(5).bytes(3_000_001)


def item(workspace: Path, url: str, key: str = KEY) -> catalogue.Item:
    return catalogue.Item(key, workspace / "weights", url, "https://example.org/by-hand")


def left(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- the driver, as a user runs it ----------------------------------------------------------


def test_the_driver_fetches_from_a_mirror_and_a_second_run_changes_nothing(run_driver, workspace, tmp_path, data):
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    for name in catalogue.PRETRAINED:
        (mirror / name).write_bytes(data + name.encode())
    env = {"LIVENESS_WEIGHTS_URL": mirror.as_uri()}
    result = run_driver("download_weights.sh", "pretrained", env=env)
    assert result.returncode == 0, result.stderr
    assert left(workspace / "weights") == sorted([*catalogue.PRETRAINED, "digests.json"])
    known = json.loads((workspace / "weights" / "digests.json").read_text())
    for name in catalogue.PRETRAINED:
        path = workspace / "weights" / name
        assert path.read_bytes() == data + name.encode()
        assert known[name] == hashlib.sha256(data + name.encode()).hexdigest()
    before = {p: p.stat().st_mtime_ns for p in (workspace / "weights").iterdir()}
    # What is there is not asked for again: the mirror may be gone.
    result = run_driver("download_weights.sh", "pretrained", env={"LIVENESS_WEIGHTS_URL": "file:///nowhere"})
    assert result.returncode == 0, result.stderr
    assert {p: p.stat().st_mtime_ns for p in (workspace / "weights").iterdir()} == before


def test_the_driver_names_every_step():
    from liveness.base.files import CODE

    command = ["bash", str(CODE / "download_weights.sh")]
    env = {**os.environ, "DRY_RUN": "1", "PYTHON": sys.executable}
    lines = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300).stdout.splitlines()
    assert [line.split(" -m ")[1] for line in lines] == [
        "liveness.download weights pretrained",
        "liveness.download weights zalo2022_published",
        "liveness.convert zalo2022_published",
    ]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("file:///nowhere", "No such file"),
        ("http://127.0.0.1:9", "cannot be reached"),
        ("ftp://x", "expected an address"),
    ],
)
def test_a_mirror_that_is_not_there_is_one_line(run_driver, workspace, url, expected):
    env = {"LIVENESS_DATA_URL": url, "no_proxy": "127.0.0.1"}
    result = run_driver("scripts/download_data.sh", "train", env=env, timeout=300)
    assert result.returncode == 1
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert left(workspace) == []


def test_the_published_members_have_a_place_and_an_address(workspace, monkeypatch):
    monkeypatch.delenv("LIVENESS_WEIGHTS_URL", raising=False)
    items = catalogue.list_weight_items("zalo2022_published")
    names = [f"convnext_large_fold{k}" for k in range(3)] + [f"convnext_xlarge_fold{k}" for k in range(5)]
    assert [i.key for i in items] == [f"zalo2022_published/original/{name}.pth" for name in names]
    assert len({i.url for i in items}) == 8
    assert all(i.by_hand.startswith("https://drive.google.com/file/d/") for i in items)


# ---- transfer -------------------------------------------------------------------------------


def test_a_broken_connection_is_continued_where_it_stopped(server, workspace, data):
    server.files["/x.pth"] = data
    server.break_after = [1_000_000, 700_000]
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert (workspace / "weights" / KEY).read_bytes() == data
    assert [r[2] for r in server.requests] == [None, "bytes=1000000-", "bytes=1700000-"]
    assert left(workspace / "weights") == sorted([KEY, "digests.json"])


def test_a_later_run_continues(server, workspace, data, monkeypatch):
    server.files["/x.pth"] = data
    server.break_after = [1_000_000]
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    with pytest.raises(UserError, match="1000000 bytes so far are kept") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    one_line(error)
    assert not (workspace / "weights" / KEY).exists()
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert (workspace / "weights" / KEY).read_bytes() == data
    assert server.requests[-1][2] == "bytes=1000000-"


def test_a_part_of_an_older_version_is_not_continued(server, workspace, data, monkeypatch):
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    server.files["/x.pth"] = data
    server.break_after = [1_000_000]
    with pytest.raises(UserError):
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    server.files["/x.pth"] = newer = data[::-1] + b"more"
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert (workspace / "weights" / KEY).read_bytes() == newer


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("have", [1, 1_000_000, 3_000_003, 4_000_000])
def test_any_part_on_the_disk_ends_as_the_whole_file(server, workspace, data, ranges, have):
    # The whole of it already (the run died before the rename), and more than the whole, too.
    server.files["/x.pth"], server.ranges = data, ranges
    partial = workspace / "weights" / f"{KEY}.partial"
    partial.parent.mkdir()
    partial.write_bytes((data + data)[:have])
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert (workspace / "weights" / KEY).read_bytes() == data
    assert left(workspace / "weights") == sorted([KEY, "digests.json"])


def test_a_file_address_is_continued_too(workspace, tmp_path, data):
    (tmp_path / "100 %.pth").write_bytes(data)
    partial = workspace / "weights" / f"{KEY}.partial"
    partial.parent.mkdir()
    partial.write_bytes(data[:1000])
    transfer.fetch_item(item(workspace, (tmp_path / "100 %.pth").as_uri()))
    assert (workspace / "weights" / KEY).read_bytes() == data


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(server, workspace, data):
    server.files["/x.pth"], server.errors = data, [503, 500]
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert len(server.requests) == 3
    server.errors = [503] * 20
    with pytest.raises(UserError, match="503") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth", catalogue.PRETRAINED[1]))
    one_line(error)
    assert len(server.requests) == 3 + transfer.ATTEMPTS


def test_an_absent_file_is_one_line_with_a_way_out(server, workspace):
    with pytest.raises(UserError, match=r"404.*by hand: save https://example.org/by-hand") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    one_line(error)
    assert len(server.requests) == 1
    assert left(workspace) == []


def test_one_file_that_fails_does_not_keep_the_others_from_coming(server, workspace, data, capsys):
    server.files["/b"] = data
    items = [item(workspace, f"{server.url}/{name}", f"{name}.pth") for name in "abc"]
    with pytest.raises(UserError, match="2 of 3 failed"):
        fetch.fetch_items(items)
    assert (workspace / "weights" / "b.pth").read_bytes() == data
    assert capsys.readouterr().err.count("error: ") == 2


def test_two_downloads_of_one_file_do_not_mix(server, workspace, data):
    server.files["/x.pth"] = data
    partial = workspace / "weights" / f"{KEY}.partial"
    partial.parent.mkdir()
    with transfer.lock_partial(partial), pytest.raises(UserError, match="another download"):
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line(server, workspace, data, monkeypatch):
    server.files["/x.pth"] = data
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: transfer.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="3000003 more bytes needed, 1 free") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    one_line(error)
    # The disk fills up while writing: the system's own error, from the device that is always full.
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left") as system:
        full.write(b"x")
    assert "the disk is full" in disk.describe_disk_error(system.value, workspace / "weights" / "x")


# ---- content --------------------------------------------------------------------------------


def test_a_reply_without_a_length_has_an_end(server, workspace, monkeypatch):
    server.endless = True
    monkeypatch.setattr(transfer, "LONGEST_UNSAID", 3_000_000)
    with pytest.raises(UserError, match="more than 3000000 bytes came .the server does not say") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/a"))
    assert "by hand" in one_line(error)
    assert left(workspace) == []  # what came is not the file: it takes no room


def test_a_file_that_grows_while_it_is_read_is_bounded_by_what_was_announced(workspace):
    with pytest.raises(UserError, match="more than 0 bytes came"):
        transfer.fetch_item(item(workspace, "file:///dev/zero"))
    assert left(workspace) == []


def damaged_record(weights: Path) -> None:
    weights.mkdir()
    (weights / "digests.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (damaged_record, "digests.json: not JSON"),
        (lambda weights: (weights / KEY).mkdir(parents=True), "is a folder; expected a file"),
        (lambda weights: weights.write_text(""), "weights: cannot write there"),
        (lambda weights: weights.symlink_to("/proc/nowhere"), "weights: cannot write there"),
    ],
)
def test_what_makes_a_download_useless_is_known_before_its_first_byte(server, workspace, data, spoil, expected):
    server.files["/a"] = data
    spoil(workspace / "weights")
    with pytest.raises(UserError, match=expected) as error:
        fetch.fetch_items([item(workspace, f"{server.url}/a")])
    one_line(error)
    assert server.requests == []


def test_a_file_where_a_set_should_come_is_known_before_the_download(server, workspace, monkeypatch, tmp_path):
    server.files["/train.zip"] = make_zip(tmp_path / "x.zip", GOOD).read_bytes()
    monkeypatch.setenv("LIVENESS_DATA_URL", server.url)
    (workspace / "raw").mkdir()
    (workspace / "raw/train").write_text("mine")
    with pytest.raises(UserError, match="raw/train: is a file"):
        fetch.fetch_sets(["train"])
    assert server.requests == [] and (workspace / "raw/train").read_text() == "mine"


def test_a_wrong_digest_destroys_nothing(server, workspace, data):
    server.files["/x.pth"] = data
    weights = workspace / "weights"
    weights.mkdir()
    (weights / "digests.json").write_text(json.dumps({KEY: "0" * 64, "other": "1"}))
    with pytest.raises(UserError, match=r"SHA-256 is .*digests.json says 0{64}.*take the entry.*rejected") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    one_line(error)
    assert (weights / f"{KEY}.rejected").read_bytes() == data
    assert not (weights / KEY).exists()
    assert json.loads((weights / "digests.json").read_text()) == {KEY: "0" * 64, "other": "1"}
    # A file that is there and does not fit its record stays as it is.
    (weights / KEY).write_bytes(b"mine")
    with pytest.raises(UserError, match="SHA-256"):
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert (weights / KEY).read_bytes() == b"mine"
    # The advice works: without the entry the file is accepted, and recorded.
    (weights / "digests.json").write_text("{}")
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert json.loads((weights / "digests.json").read_text()) == {KEY: hashlib.sha256(b"mine").hexdigest()}


def test_a_published_digest_counts_more_than_a_record(server, workspace, data, monkeypatch):
    server.files["/x.pth"] = data
    monkeypatch.setitem(catalogue.PUBLISHED_DIGESTS, KEY, "f" * 64)
    with pytest.raises(UserError, match="the published one is f{64}"):
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    monkeypatch.setitem(catalogue.PUBLISHED_DIGESTS, KEY, hashlib.sha256(data).hexdigest())
    transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    assert (workspace / "weights" / KEY).read_bytes() == data


def test_a_web_page_is_never_saved_as_weights(server, workspace):
    # As octet-stream, too: a proxy's login page may say anything of itself.
    server.files["/x.pth"] = b"\n<!DOCTYPE HTML><html><title>Log in</title></html>"
    with pytest.raises(UserError, match="a web page instead of the file") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))
    one_line(error)
    assert not (workspace / "weights" / KEY).exists()
    # Put there by hand: said as well.
    (workspace / "weights" / KEY).write_bytes(b"<html>")
    with pytest.raises(UserError, match="a web page instead of the file"):
        transfer.fetch_item(item(workspace, f"{server.url}/x.pth"))


def test_a_damaged_checkpoint_is_found_without_a_digest(server, workspace, tmp_path):
    import torch

    torch.save({"model": {"w": torch.arange(1000.0)}}, tmp_path / "x.pth")
    whole = (tmp_path / "x.pth").read_bytes()
    server.files = {"/x": whole, "/y": whole[:-100], "/z": whole.replace(b"\x00\x00\x80?", b"\x00\x00\x80>", 1)}
    transfer.fetch_item(item(workspace, f"{server.url}/x", "x.pth"))
    for name in "yz":
        with pytest.raises(UserError, match="not a whole archive|damaged inside"):
            transfer.fetch_item(item(workspace, f"{server.url}/{name}", f"{name}.pth"))
        assert not (workspace / "weights" / f"{name}.pth").exists()


# ---- Google Drive ---------------------------------------------------------------------------


def test_the_confirmation_page_of_drive_is_passed(server, workspace, data, monkeypatch):
    monkeypatch.delenv("LIVENESS_WEIGHTS_URL", raising=False)
    monkeypatch.setenv("LIVENESS_DRIVE_URL", f"{server.url}/drive")
    server.files = {f"/{drive_id}": data + name.encode() for name, drive_id in catalogue.PUBLISHED.items()}
    server.break_after = [1_000_000]
    download.main(["weights", "zalo2022_published"])
    for name in catalogue.PUBLISHED:
        path = workspace / "weights" / "zalo2022_published" / "original" / f"{name}.pth"
        assert path.read_bytes() == data + name.encode()
    # The one that broke off was continued, behind the page.
    assert ("bytes=1000000-" in [r[2] for r in server.requests if "confirm" in r[1]]) is True


def test_a_form_that_leads_to_another_server_is_not_followed(server, workspace, data):
    server.files["/1"], server.form_action = data, "http://127.0.0.1:9/drive"
    with pytest.raises(UserError, match="a web page came instead of the file .Google Drive - Virus scan warning"):
        transfer.fetch_item(item(workspace, f"{server.url}/drive?id=1"))
    assert left(workspace) == []


def test_a_used_up_quota_is_said_and_costs_nothing(server, workspace, data, monkeypatch):
    server.files["/1"] = data
    server.break_after = [1_000_000]
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    with pytest.raises(UserError):
        transfer.fetch_item(item(workspace, f"{server.url}/drive?id=1"))
    server.quota = True
    with pytest.raises(UserError, match=r"quota is used up.*tomorrow.*by hand: save https://example.org") as error:
        transfer.fetch_item(item(workspace, f"{server.url}/drive?id=1"))
    one_line(error)
    # What had come is still there, and is continued when Drive gives the file again.
    assert (workspace / "weights" / f"{KEY}.partial").stat().st_size == 1_000_000
    server.quota = False
    transfer.fetch_item(item(workspace, f"{server.url}/drive?id=1"))
    assert (workspace / "weights" / KEY).read_bytes() == data


# ---- archives -------------------------------------------------------------------------------


def make_zip(path: Path, entries: dict[str, bytes | zipfile.ZipInfo]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            if isinstance(content, zipfile.ZipInfo):
                archive.writestr(content, b"/etc/passwd")
            else:
                archive.writestr(name, content)
    return path


GOOD = {
    "train/label.csv": b"fname,liveness_score\n1.mp4,1\n",
    "train/videos/1.mp4": b"one",
    "train/videos/2.mp4": b"two",
}


@pytest.mark.parametrize("enclosed", [True, False])
def test_a_set_is_fetched_and_unpacked_once(run_driver, workspace, tmp_path, enclosed):
    entries = {name if enclosed else name.removeprefix("train/"): content for name, content in GOOD.items()}
    make_zip(tmp_path / "train.zip", {"__MACOSX/train/._1.mp4": b"", **entries})
    env = {"LIVENESS_DATA_URL": tmp_path.as_uri()}
    result = run_driver("scripts/download_data.sh", "train", env=env)
    assert result.returncode == 0, result.stderr
    assert left(workspace / "raw") == ["digests.json", "train/label.csv", "train/videos/1.mp4", "train/videos/2.mp4"]
    assert (workspace / "raw/train/videos/2.mp4").read_bytes() == b"two"
    (tmp_path / "train.zip").unlink()
    (workspace / "raw/train/mine.txt").touch()
    result = run_driver("scripts/download_data.sh", "train", env=env)
    assert result.returncode == 0, result.stderr
    assert (workspace / "raw/train/mine.txt").exists()


def test_a_set_from_a_server_that_breaks_off(server, workspace, tmp_path, monkeypatch):
    big = {
        "train/videos/1.mp4": np.random.default_rng(1).bytes(2_000_000),
        "train/label.csv": b"fname,liveness_score\n",
    }
    server.files["/train.zip"] = make_zip(tmp_path / "x.zip", big).read_bytes()
    server.break_after = [1_200_000]
    monkeypatch.setenv("LIVENESS_DATA_URL", server.url + "/")
    fetch.fetch_sets(["train"])
    assert (workspace / "raw/train/videos/1.mp4").read_bytes() == big["train/videos/1.mp4"]


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"train/../../evil.mp4": b""}, "would leave its folder"),
        ({"../evil.mp4": b""}, "would leave its folder"),
        ({"/evil.mp4": b""}, "would leave its folder"),
        ({"..\\evil.mp4": b""}, "would leave its folder"),
        ({"train\\..\\..\\evil.mp4": b""}, "would leave its folder"),
        ({"\\evil.mp4": b""}, "would leave its folder"),
        ({"\\\\server\\share\\evil.mp4": b""}, "would leave its folder"),
        ({"C:\\evil.mp4": b""}, "would leave its folder"),
        ({"train\\videos\\1.mp4": b"again"}, "twice"),
        ({"C:/evil.mp4": b""}, "would leave its folder"),
        ({"train/videos/9.mp4": link("train/videos/9.mp4")}, "is a link"),
        ({"train/videos": link("train/videos")}, "is a link"),
        ({"train/./videos/1.mp4": b"again"}, "twice"),
        ({"train/videos/big.mp4": bytes(30_000_000)}, "refused"),
    ],
)
def test_an_archive_that_is_not_honest_is_refused_whole(workspace, tmp_path, entries, expected):
    archive = make_zip(tmp_path / "train.zip", {**GOOD, **entries})
    folder = workspace / "raw" / "train"
    folder.parent.mkdir()
    with pytest.raises(UserError, match=expected) as error:
        unpack.unpack_set(archive, folder)
    one_line(error)
    assert left(workspace) == []
    assert left(tmp_path) == ["train.zip"]
    assert archive.exists()


def test_an_archive_made_on_windows_is_unpacked(workspace, tmp_path):
    """Some Windows tools part folders by backslashes, and name the folders themselves so."""
    entries = {name.replace("/", "\\"): content for name, content in GOOD.items()}
    archive = make_zip(tmp_path / "train.zip", {"train\\": b"", "train\\videos\\": b"", **entries})
    folder = workspace / "raw" / "train"
    folder.parent.mkdir()
    assert unpack.unpack_set(archive, folder) == 3
    assert left(folder) == ["label.csv", "videos/1.mp4", "videos/2.mp4"]
    assert (folder / "videos/2.mp4").read_bytes() == b"two"


def test_an_archive_without_videos_or_damaged_is_refused(workspace, tmp_path):
    folder = workspace / "raw" / "train"
    folder.parent.mkdir()
    with pytest.raises(UserError, match="no video in it"):
        unpack.unpack_set(make_zip(tmp_path / "a.zip", {"train/readme.txt": b"x"}), folder)
    damaged = bytearray(
        make_zip(tmp_path / "b.zip", {"videos/1.mp4": np.random.default_rng(0).bytes(9999)}).read_bytes()
    )
    damaged[5000] ^= 1
    (tmp_path / "b.zip").write_bytes(damaged)
    with pytest.raises(UserError, match="damaged"):
        unpack.unpack_set(tmp_path / "b.zip", folder)
    assert left(workspace) == []
    assert not folder.exists()
