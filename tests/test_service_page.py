"""The service as a process of its own: its page in headless Chromium, callers that are slow or hang up, the stop."""

import base64
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import BROWSERS, Browser
from service_scorer import portrait_clip

from liveness.base.files import CODE

pytest.importorskip("starlette", reason="needs liveness[serve]")
pytest.importorskip("uvicorn", reason="needs liveness[serve]")
pytestmark = pytest.mark.full
FAST = ("header_seconds=1", "upload_seconds=3", "idle_seconds=1", "clips=1", "queue=3")


class Service:
    """The process of service_scorer.py, on a port of its own."""

    def __init__(self, *limits: str) -> None:
        command = [sys.executable, str(CODE / "tests" / "service_scorer.py"), "0", *limits]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = self.process.stdout.readline()
        found = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+)/ .*\n", said)
        assert found, (said, self.process.stderr.read() if self.process.poll() is not None else "")
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}/"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body)
        answer = connection.getresponse()
        status, row = answer.status, json.loads(answer.read())
        connection.close()
        return status, row

    def end(self) -> tuple[int, str]:
        """Its exit code after SIGTERM, and what stands on stderr."""
        self.process.send_signal(signal.SIGTERM)
        try:
            _, said = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        return self.process.returncode, said


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    started = Service(*FAST)
    yield started
    assert started.end() == (0, "")  # whatever was sent to it: nothing of that is in the log


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return portrait_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=40)


@pytest.fixture(scope="module")
def browser(tmp_path_factory, clip) -> Iterator[Browser]:
    """One whose camera shows the clip."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not binary or not shutil.which("ffmpeg"):
        pytest.skip(f"needs ffmpeg and a browser, one of {', '.join(BROWSERS)}")
    camera = clip.with_suffix(".y4m")
    subprocess.run(["ffmpeg", "-loglevel", "error", "-i", clip, "-pix_fmt", "yuv420p", camera], check=True)
    flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    started = Browser(binary, tmp_path_factory.mktemp("profile"), *flags, f"--use-file-for-fake-video-capture={camera}")
    yield started
    started.close()


def wait_for(browser: Browser, script: str, seconds: float = 60) -> object:
    """The value of an expression, as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := browser.run(script)):
        assert time.monotonic() < end, (script, browser.run("document.body.innerText"))
        time.sleep(0.05)
    return value


def choose(browser: Browser, *files: Path) -> None:
    """Choose a file, as a person does in the dialog."""
    browser.call("DOM.enable")
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])


@pytest.fixture
def page(browser, service) -> Iterator[Callable[..., Browser]]:
    """The page at a width; afterwards: no complaint, and no request but to the service."""

    def open_page(width: int = 1200) -> Browser:
        browser.events.clear()
        browser.open(service.url, width)
        return browser

    yield open_page
    browser.run("0")
    told = browser.told("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [one for one in told if "422" not in json.dumps(one)] == []
    asked = {event["request"]["url"] for event in browser.told("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith((service.url, "data:", "blob:"))} == set()


VERDICT = "document.querySelector('#status .verdict')?.textContent"


@pytest.mark.parametrize("width", [1200, 390, 320])
def test_a_chosen_clip_is_shown_with_its_score_frames_and_members(page, clip, width):
    browser = page(width)
    choose(browser, clip)
    assert wait_for(browser, VERDICT) in ("Live", "No decision")
    wait_for(browser, "document.querySelectorAll('#frames canvas').length === 3")
    assert browser.run("document.querySelectorAll('#members tr').length") == 2
    assert "threshold is 0.400, known to lie from 0.350 to 0.450" in browser.run(
        "document.getElementById('status').innerText"
    )
    # The box is drawn where the face is: green pixels on its upper edge.
    green = "(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0;"
    green += (
        " for (let i = 0; i < d.length; i += 4) n += d[i] === 108 && d[i + 1] === 255 && d[i + 2] === 143; return n; })"
    )
    assert browser.run(f"{green}(document.querySelector('#frames canvas'))") > 200
    assert browser.run("document.activeElement.id") == "result-title"
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_three_seconds_of_the_camera_are_scored(page):
    browser = page()
    browser.run("document.getElementById('camera').focus()")
    browser.press(" ", 32)
    wait_for(browser, "!document.getElementById('record').hidden && document.getElementById('preview').videoWidth")
    wait_for(browser, "document.activeElement.id === 'record'")
    browser.press(" ", 32)
    guides = set()
    while not browser.run(VERDICT):
        guides.add(browser.run("document.getElementById('guide').textContent"))
        time.sleep(0.1)
    assert len([guide for guide in guides if guide.endswith(")")]) == 3  # one for each second
    wait_for(browser, "document.querySelectorAll('#frames canvas').length === 3")
    seconds = browser.run("[...document.querySelectorAll('#frames .soft')].map((node) => parseFloat(node.textContent))")
    assert 1.5 < seconds[-1] - seconds[0] < 3.5
    assert "face" in browser.run("document.querySelector('#frames .soft').textContent")
    browser.run("document.getElementById('stop').click()")
    assert browser.run("document.getElementById('preview').srcObject === null")


def test_what_cannot_be_scored_has_its_reason_on_the_page(page, tmp_path):
    text = tmp_path / "clip.mp4"
    text.write_text("no clip at all")
    browser = page(390)
    choose(browser, text)
    assert wait_for(browser, VERDICT) == "Not scored"
    assert "a text, not a video" in browser.run("document.getElementById('status').innerText")
    assert browser.run("document.getElementById('details').hidden")


def test_the_description_is_shown(page, browser, service):
    page()
    browser.open(f"{service.url}docs", 390)
    wait_for(browser, "document.querySelectorAll('#paths h2').length === 10")
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def save_pictures(browser: Browser, folder: Path, name: str, width: int) -> None:
    """For people to look at; no test calls it."""
    height = browser.run("document.documentElement.scrollHeight")
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    data = browser.call("Page.captureScreenshot")["data"]
    (folder / f"{name}-{width}.png").write_bytes(base64.b64decode(data))


# --- callers ---------------------------------------------------------------------------------------


def all_of(connection: socket.socket) -> bytes:
    """What comes until the other end closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "status", "error"),
    [
        (b"GARBAGE\r\n\r\n", 400, "bad_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "bad_http"),
        (b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", 400, "bad_http"),
        (b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, "bad_http"),
        (b"POST /score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_http"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 99999, 400, "bad_http"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_http"),
        (
            b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
            413,
            "too_large",
        ),
        (b"GET /score HTTP/1.1\r\nHost: lo", 408, "too_slow"),
        (b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nabc", 408, "too_slow"),
    ],
)
def test_what_is_no_request_has_an_answer_in_json_and_the_connection_ends(service, sent, status, error):
    with service.connect() as connection:
        connection.sendall(sent)
        answer = all_of(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert json.loads(body)["error"] == error
    assert service.ask("GET", "/ready")[0] == 200


def test_who_sends_nothing_or_trickles_is_not_waited_for(service):
    for first, more in ((b"", b""), (b"GET / HTTP/1.1\r\n", b"X: y\r\n")):
        with service.connect() as connection:
            connection.sendall(first)
            started = time.monotonic()
            try:
                while time.monotonic() - started < 20:
                    connection.settimeout(0.2)
                    try:
                        if not connection.recv(4096):
                            break
                    except TimeoutError:
                        connection.sendall(more)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert time.monotonic() - started < 5  # header_seconds is 1


def test_who_does_not_read_its_answers_is_not_waited_for(service):
    """Many requests on one connection, whose answers (14 kB each) fill all buffers on their way."""
    many = 2000
    with service.connect() as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * many)
        time.sleep(3)  # header_seconds is 1
        assert all_of(connection).count(b"HTTP/1.1 200") < many
    assert service.ask("GET", "/ready")[0] == 200


def test_who_hangs_up_leaves_no_file_and_no_place(service, clip):
    data = clip.read_bytes()
    head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
    for part in (data[:1000], data):
        with service.connect() as connection:
            connection.sendall(head + part)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        connection.request("GET", "/metrics")
        if "liveness_places 0\n" in connection.getresponse().read().decode():
            break
        time.sleep(0.1)
    else:
        raise AssertionError("a place is still taken")
    assert service.ask("POST", "/score", data)[0] == 200


def test_a_stop_answers_what_was_accepted_and_ends_all_processes(clip):
    service = Service("clips=1", "queue=8")
    data = clip.read_bytes()
    callers = []
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        connection.request("POST", "/score", data)
        callers.append(connection)
    idle = service.connect()
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text().split()
    time.sleep(0.1)
    service.process.send_signal(signal.SIGTERM)
    answers = [caller.getresponse() for caller in callers]
    assert [answer.status for answer in answers] == [200] * 5
    assert all(json.loads(answer.read())["status"] == "ok" for answer in answers)
    assert idle.recv(1) == b""
    _, said = service.process.communicate(timeout=30)
    assert (service.process.returncode, said) == (0, "")
    end = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end, "a process was left"
        time.sleep(0.05)
