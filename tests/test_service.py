"""The service's answers, in process: rows, refusals, limits, who may call, and what is left on the disk.

The models are not the matter here (service_scorer.py); tests/test_serve.py serves an exported ensemble.
"""

import io
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service_scorer import MeanScorer, harm, portrait_clip

starlette = pytest.importorskip("starlette", reason="needs liveness[serve]")

from prometheus_client.parser import text_string_to_metric_families  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from liveness.base.errors import UserError  # noqa: E402
from liveness.service import desk  # noqa: E402
from liveness.service.app import FILES, PAGE, make_app  # noqa: E402
from liveness.service.settings import ServiceLimits, read_token  # noqa: E402
from liveness.service.spool import PREFIX, Spool  # noqa: E402

LIMITS = ServiceLimits(clips=1, queue=1, bytes=200_000, seconds=5, pixels=500_000, decode_seconds=20)
API = json.loads((PAGE / "openapi.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, bytes]:
    """Bodies by name."""
    folder = tmp_path_factory.mktemp("clips")
    made = {
        "face": portrait_clip(folder / "a.mp4"),
        "dark": portrait_clip(folder / "b.mp4", level=0.2),
        "upside_down": portrait_clip(folder / "c.mp4", turn=2),
        "long": portrait_clip(folder / "d.mp4", frames=60),
    }
    bodies = {name: path.read_bytes() for name, path in made.items()}
    picture = io.BytesIO()
    Image.fromarray(np.full((800, 800, 3), 128, np.uint8)).save(picture, "PNG")
    return bodies | {"grey": picture.getvalue()}


@pytest.fixture(scope="module")
def temporary(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("t")


def client_of(limits: ServiceLimits = LIMITS, token: str = "", **options) -> TestClient:
    return TestClient(make_app(MeanScorer(), limits, token), base_url="http://127.0.0.1:8000", **options)


@pytest.fixture(scope="module")
def client(temporary):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(temporary))
        with client_of() as running:
            yield running
    assert list(temporary.glob(f"{PREFIX}*")) == []


def is_as_described(answer, schema: str) -> dict:
    """The body, whose fields are those in openapi.json; headers that every answer has."""
    body = answer.json()
    assert set(body) == set(API["components"]["schemas"][schema]["properties"]), body
    assert str(answer.status_code) in API["paths"]["/score"]["post"]["responses"]
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["cache-control"] == "no-store"
    return body


def refused(answer, status: int, error: str) -> str:
    """The reason of a refusal that has this status and word."""
    body = is_as_described(answer, "Error")
    assert (answer.status_code, body["error"]) == (status, error), body
    assert body["reason"] and "\n" not in body["reason"] and "Traceback" not in body["reason"]
    return body["reason"]


def test_a_clip_has_the_same_row_raw_and_in_a_form(client, clips, temporary):
    raw = client.post("/score?pictures=1", content=clips["face"], headers={"Content-Type": "video/mp4"})
    row = is_as_described(raw, "Row")
    assert row["status"] == "ok" and row["decision"] == "live" and row["frames"] == row["faces"] == 3
    form = client.post("/score", files={"clip": ("../../x.png", clips["face"], "image/png")})  # neither is believed
    other = is_as_described(form, "Row")
    assert other["score"] == row["score"] and "picture" not in other["used"][0]
    for frame in row["used"]:
        left, top, width, height = frame["face"]  # of the portrait, which is in the middle
        assert 100 < left + width / 2 < 200 and 80 < top + height / 2 < 160
        assert frame["picture"].startswith("data:image/jpeg;base64,")
    (folder,) = temporary.glob(f"{PREFIX}*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["lock"]  # no body is left


def test_hints_say_what_to_do_better(client, clips):
    def kinds(name: str) -> set[str]:
        return {hint["kind"] for hint in client.post("/score", content=clips[name]).json()["hints"]}

    assert "dark" in kinds("dark") and "dark" not in kinds("face")
    assert "rotated" in kinds("upside_down") and "rotated" not in kinds("face")
    row = is_as_described(client.post("/score?pictures=0", content=clips["face"][:9000]), "Error")
    assert row["error"] == "unreadable"


def test_an_image_without_a_face_is_a_row(client, clips):
    image = clips["grey"]
    with client_of(replace(LIMITS, pixels=1_000_000)) as other:
        row = is_as_described(other.post("/score", files={"clip": ("a.png", image)}), "Row")
    assert row["status"] == "no_face" and row["decision"] == "abstain"
    assert [hint["kind"] for hint in row["hints"]] == ["no_face"]
    assert "800x800" in refused(client.post("/score", content=image), 422, "too_many_pixels")


def test_what_is_too_large_or_too_long_is_refused(client, clips, temporary):
    assert "6.0 s" in refused(client.post("/score", content=clips["long"]), 422, "too_long")
    refused(client.post("/score", content=b"x" * 200_001), 413, "too_large")
    refused(client.post("/score", content=(b"x" * 50_000 for _ in range(9))), 413, "too_large")  # chunked: no length
    refused(client.post("/score", files={"clip": b"x" * 210_000}), 413, "too_large")
    refused(client.post("/score", files={"clip": b"x" * 250_000}), 413, "too_large")
    (folder,) = temporary.glob(f"{PREFIX}*")
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.full
def test_rows_and_errors_are_what_openapi_says(client, clips):
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema({"components": API["components"]})
    for body, schema in (
        (clips["face"], "Row"),
        (clips["dark"], "Row"),
        (clips["upside_down"], "Row"),
        (b"x", "Error"),
    ):
        answer = client.post("/score?pictures=1", content=body).json()
        described = {"$ref": f"#/components/schemas/{schema}", "components": API["components"]}
        assert [error.message for error in Draft202012Validator(described).iter_errors(answer)] == []


def form(*parts: bytes, end: bytes = b"--b--\r\n") -> dict:
    body = b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


FILE = b'Content-Disposition: form-data; name="clip"; filename="a"\r\n\r\n'
KIND = "Content-Type"


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (dict(content=b""), 400, "empty"),
        (form(FILE), 400, "empty"),
        (dict(content=b"hello"), 422, "unreadable"),
        (dict(content=os.urandom(5000)), 422, "unreadable"),
        (dict(content=b"#EXTM3U\n/etc/passwd\n"), 422, "unreadable"),
        (dict(content=b"ffconcat version 1.0\nfile /etc/passwd\n"), 422, "unreadable"),
        (dict(json={"image": "aGVsbG8="}), 415, "no_file"),
        (dict(content=b"x", headers={"Content-Encoding": "gzip"}), 415, "encoded"),
        (form(), 400, "bad_form"),
        (form(FILE + b"x", FILE + b"x"), 400, "bad_form"),
        (form(b'Content-Disposition: form-data; name="clip"\r\n\r\nx'), 400, "bad_form"),
        (form(b"\r\nx"), 400, "bad_form"),
        (form(FILE + b"x", end=b""), 400, "bad_form"),
        (form(FILE[:-4] + b"\r\nContent-Transfer-Encoding: base64\r\n\r\neA=="), 415, "encoded"),
        (form(b"".join(b"X%d: 1\r\n" % number for number in range(99)) + FILE), 400, "bad_form"),
        (form(b"X: " + b"y" * 9999 + b"\r\n" + FILE), 400, "bad_form"),
        (dict(content=b"no boundary at all", headers={KIND: "multipart/form-data; boundary=b"}), 400, "bad_form"),
        (dict(content=b"x", headers={KIND: "multipart/form-data"}), 400, "bad_form"),
        (dict(content=b"x", headers={KIND: f"multipart/form-data; boundary={'b' * 999}"}), 400, "bad_form"),
        (dict(content=b"x", headers={KIND: "multipart/mixed; boundary=b"}), 400, "bad_form"),
        (dict(content=b"x", params={"picture": "1"}), 400, "bad_query"),
        (dict(content=b"x", params={"pictures": "yes"}), 400, "bad_query"),
        (dict(content=b"x", headers={"Origin": "https://elsewhere.example"}), 403, "foreign_page"),
        (dict(content=b"x", headers={"Origin": "null"}), 403, "foreign_page"),
        (dict(content=b"x", headers={"Host": "elsewhere.example"}), 403, "foreign_host"),
        (dict(content=b"x", headers={"Host": "[::1"}), 403, "foreign_host"),
    ],
)
def test_a_malformed_request_has_an_error_of_its_own(client, request_, status, error):
    reason = refused(client.post("/score", **request_), status, error)
    assert "passwd" not in reason and "root" not in reason


def test_unknown_paths_and_methods_are_json_errors(client):
    for path, method, status in (
        ("/nix", "get", 404),
        ("/score", "get", 405),
        ("/health", "post", 405),
        ("/..%2f", "put", 404),
    ):
        answer = client.request(method, path)
        assert answer.status_code == status and set(answer.json()) == {"error", "reason"}
    assert client.get("/score").headers["allow"] == "POST"
    assert client.post("/score", content=b"hello", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 422


def test_every_path_that_is_described_is_there_and_no_other(client):
    for path in API["paths"]:
        assert client.get(path).status_code == (405 if path == "/score" else 200)
    assert set(FILES) - set(API["paths"]) == {"/page.js", "/page.css", "/house.css", "/docs.js"}
    for path in ("/", "/docs"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert "http://" not in answer.text.replace("http://127.0.0.1", "") and "https://" not in answer.text
        assert "<style" not in answer.text and "onclick" not in answer.text and "<script>" not in answer.text
        assert "access-control-allow-origin" not in answer.headers


def test_a_token_is_asked_for_where_there_is_one(clips, monkeypatch):
    token = "a-token-of-sixteen-and-more"
    with client_of(token=token) as client:
        for header in (None, "Bearer wrong", f"Basic {token}", f"Bearer {token}x", "Bearer", "Bearer \xfc"):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            answer = client.post("/score", content=clips["face"], headers=headers)
            refused(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics").status_code == 401
        assert [client.get(path).status_code for path in ("/health", "/ready", "/")] == [200, 200, 200]
        known = {"Authorization": f"Bearer {token}", "Host": "service.example"}  # with a token any name will do
        assert client.post("/score", content=clips["face"], headers=known).status_code == 200
        assert client.get("/metrics", headers=known).status_code == 200
    monkeypatch.delenv("LIVENESS_TOKEN", raising=False)
    assert read_token("127.0.0.1") == read_token("::1") == ""
    for host in ("0.0.0.0", "::", "192.168.1.2"):
        with pytest.raises(UserError, match="set LIVENESS_TOKEN"):
            read_token(host)
    monkeypatch.setenv("LIVENESS_TOKEN", "short")
    with pytest.raises(UserError, match="at least 16"):
        read_token("127.0.0.1")
    monkeypatch.setenv("LIVENESS_TOKEN", token)
    assert read_token("0.0.0.0") == token


def test_a_full_disk_is_told_and_passes(client, clips, temporary, monkeypatch):
    full = temporary / "full"
    full.touch()
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "create", lambda _: (full, os.open("/dev/full", os.O_WRONLY)))
        answer = client.post("/score", content=clips["face"])
    assert "No space left" in refused(answer, 503, "no_room") and answer.headers["retry-after"]
    assert not full.exists()
    assert client.post("/score", content=clips["face"]).status_code == 200


def test_a_defect_is_a_json_error_and_its_cause_is_in_the_log_alone(clips, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("the cause")

    with client_of() as client:
        monkeypatch.setattr(MeanScorer, "judge", fail)
        answer = client.post("/score", content=clips["face"])
        assert refused(answer, 500, "defect") == "the service failed at this request"
        assert "the cause" in capsys.readouterr().err
        monkeypatch.undo()
        assert client.post("/score", content=clips["face"]).status_code == 200


# --- workers ---------------------------------------------------------------------------------------


def test_a_clip_that_harms_its_worker_has_a_reason_and_the_next_one_a_row(clips, monkeypatch):
    monkeypatch.setattr(desk, "decode_clip", harm)
    with client_of() as client:
        assert "SIGSEGV" in refused(client.post("/score", content=b"die"), 422, "crashed")
        assert client.post("/score", content=clips["face"]).status_code == 200
        assert "GiB of memory" in refused(client.post("/score", content=b"eat"), 422, "crashed")
        # One death is no fault of the clip's: what it is shows at the second try.
        refused(client.post("/score", content=b"once"), 422, "unreadable")
        assert client.post("/score", content=clips["face"]).status_code == 200
        assert client.get("/ready").status_code == 200


@pytest.mark.full
def test_a_clip_that_hangs_is_given_up(clips, monkeypatch):
    monkeypatch.setattr(desk, "decode_clip", harm)
    with client_of(replace(LIMITS, decode_seconds=3)) as client:
        assert "given up after 3 s" in refused(client.post("/score", content=b"hang"), 422, "crashed")
        assert client.post("/score", content=clips["face"]).status_code == 200


def test_a_worker_that_was_killed_between_clips_is_replaced(clips):
    with client_of() as client:
        worker = client.app._app.state.desk.workers[0]
        for _ in range(2):
            os.kill(worker.process_id(), signal.SIGKILL)
            time.sleep(0.05)
            assert client.post("/score", content=clips["face"]).status_code == 200
        assert worker.started == 3


def test_where_all_places_are_taken_the_caller_is_told_when_to_come_again(clips, monkeypatch, tmp_path):
    monkeypatch.setattr(desk, "decode_clip", harm)
    gate = tmp_path / "gate"
    with client_of() as client, ThreadPoolExecutor(2) as threads:
        two = [threads.submit(client.post, "/score", content=b"wait" + bytes(gate)) for _ in range(2)]
        service = client.app._app.state.desk
        while service.taken < 2:
            time.sleep(0.01)
        answer = client.post("/score", content=clips["face"])
        refused(answer, 429, "busy")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert client.get("/health").status_code == 200
        gate.touch()
        assert [future.result().status_code for future in two] == [422, 422]  # both were answered
        assert service.taken == 0
        assert client.post("/score", content=clips["face"]).status_code == 200


def test_the_figures_are_what_prometheus_reads(client, clips):
    def figures() -> dict[tuple, float]:
        text = client.get("/metrics").text
        found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {(one.name, *sorted(one.labels.items())): one.value for one in found}

    before = figures()
    client.post("/score", content=clips["face"])
    client.post("/score", content=b"hello")
    after = figures()

    def more(name: str, **labels: str) -> float:
        key = (name, *sorted(labels.items()))
        return after[key] - before.get(key, 0)

    assert more("liveness_clips_total", decision="live") == 1
    assert more("liveness_requests_total", status="422") == 1
    assert more("liveness_refused_total", error="unreadable") == 1
    assert (
        more("liveness_seconds_bucket", stage="score", le="+Inf") == more("liveness_seconds_count", stage="score") == 1
    )
    assert more("liveness_seconds_count", stage="decode") == 2
    assert after["liveness_places",] == 0 and after["liveness_places_most",] == LIMITS.places()


def test_a_stopping_service_finishes_what_it_accepted(clips, monkeypatch, tmp_path):
    monkeypatch.setattr(desk, "decode_clip", harm)
    gate, client = tmp_path / "gate", client_of()
    client.__enter__()
    service = client.app._app.state.desk
    answers: list = []
    thread = threading.Thread(target=lambda: answers.append(client.post("/score", content=b"wait" + bytes(gate))))
    thread.start()
    while service.taken < 1:
        time.sleep(0.01)
    threading.Timer(0.3, gate.touch).start()
    service.close()  # waits for it
    assert gate.exists()
    thread.join(10)
    assert answers[0].status_code == 422
    refused(client.post("/score", content=clips["face"]), 503, "stopping")
    assert client.get("/ready").status_code == 503
    client.__exit__(None, None, None)


def test_a_folder_that_a_killed_service_left_goes_and_that_of_a_living_one_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{PREFIX}dead"
    left.mkdir(mode=0o700)
    (left / "lock").touch()
    (left / "clip").write_bytes(b"somebody's face")
    with Spool() as first:
        assert not left.exists()
        path, descriptor = first.create()
        os.close(descriptor)
        assert path.stat().st_mode & 0o777 == 0o600
        with Spool():
            assert path.exists()
    assert list(tmp_path.iterdir()) == []
