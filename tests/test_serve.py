"""``liveness serve`` on an exported folder: ``Detector``'s scores, no torch, in the image's place, under load."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported_set import write_by_hand
from namespaces import Container, copied_into_the_image, reason_against
from service_scorer import portrait_clip
from test_runtime import REFUSE

from liveness import serve
from liveness.base.errors import UserError
from liveness.base.files import CODE

NEEDED = ("onnx", "onnxruntime", "starlette", "uvicorn", "python_multipart")
lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(lacking), reason=f"needs {', '.join(lacking)}")
USER = 65532  # the image's


def write_exported(folder: Path) -> Path:
    """An exported folder whose one network, on the whole frame, has the mean of its input as its logit."""
    from onnx import TensorProto, helper, save

    given = helper.make_tensor_value_info("views", TensorProto.FLOAT, ["views", 3, "height", "width"])
    logit = helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["views", 1])
    axes = helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1])
    nodes = [
        helper.make_node("ReduceMean", ["views", "axes"], ["mean"], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["logit"]),
    ]
    graph = helper.make_graph(nodes, "mean", [given], [logit], [axes, shape])
    folder.mkdir(parents=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "net")
    network = (folder / "net").read_bytes()
    (folder / "net").unlink()
    digest = hashlib.sha256(network).hexdigest()
    write_by_hand(folder, files={"one.onnx": {"sha256": digest, "bytes": len(network)}})
    (folder / "one.onnx").write_bytes(network)
    return folder


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["serve", *arguments])
    return serve.main()


def test_a_mistake_is_one_line_before_anything_is_loaded(monkeypatch, tmp_path):
    monkeypatch.delenv("LIVENESS_TOKEN", raising=False)
    folder = str(tmp_path / "nowhere")
    for arguments, said in (
        (["--host", "0.0.0.0"], "set LIVENESS_TOKEN"),
        (["--certificate", "a.pem"], "belong together"),
        (["--clips", "0"], "--clips 0: expected 1 or more"),
        (["--queue", "-1"], "--queue -1: expected 0 or more"),
        (["--mib", "nan"], "--mib nan: expected"),
        (["--seconds", "inf"], "--seconds inf: expected"),
    ):
        with pytest.raises(UserError, match=re.escape(said)) as refused:
            call(monkeypatch, "--exported", folder, *arguments)
        assert "\n" not in str(refused.value)


def test_a_package_that_is_missing_is_one_line(monkeypatch, tmp_path):
    for name in ("starlette", "liveness.service.app", "liveness.service.server"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(UserError, match=re.escape('install: pip install "liveness[runtime,serve]"')):
        call(monkeypatch, "--exported", str(tmp_path))


@needs_packages
def test_a_folder_that_is_no_export_and_a_port_that_is_taken_are_one_line(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no exported ensemble"):
        call(monkeypatch, "--exported", str(tmp_path))
    from liveness.service.server import bind_listener, run_server
    from liveness.service.settings import ServiceLimits

    for port in (-1, 65536, 99999):
        with pytest.raises(UserError, match="expected 1 to 65535"):
            bind_listener("127.0.0.1", port)
    with bind_listener("127.0.0.1", 0) as listener, pytest.raises(UserError, match="cannot listen there"):
        bind_listener("127.0.0.1", listener.getsockname()[1])
    (tmp_path / "a.pem").write_text("no certificate")
    for name in ("a.pem", "nowhere.pem"):
        with pytest.raises(UserError, match="no certificate with its key"):
            run_server(None, "127.0.0.1", 0, ServiceLimits(), tmp_path / name, tmp_path / name)


@needs_packages
@pytest.mark.full
def test_an_exported_ensemble_is_served_without_torch_with_the_scores_of_detector(tmp_path):
    from liveness import Detector

    folder, clip = write_exported(tmp_path / "exported"), portrait_clip(tmp_path / "clip.mp4")
    with Detector(folder) as detector:
        expected = detector.score(clip)
    program = REFUSE + 'import sys; sys.argv[0] = "serve"; from liveness.serve import main; sys.exit(main())'
    command = [sys.executable, "-c", program, "--exported", str(folder), "--port", "0"]
    values = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CODE / "src"), os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=values, **pipes)
    try:
        found = re.search(r":(\d+)/", process.stdout.readline())
        assert found, process.communicate()[1]
        ask = ["curl", "-s", "-F", f"clip=@{clip}", f"http://127.0.0.1:{found[1]}/score"]
        row = json.loads(subprocess.run(ask, capture_output=True, check=True, timeout=60).stdout)
    finally:
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert (process.returncode, said) == (0, "")
    assert row["score"] == round(expected.score, 9) and row["decision"] == expected.decision
    assert row["members"] == [{"name": "demo_frame_fold0", "score": row["score"], "uncalibrated": row["score"]}]
    assert [frame["index"] for frame in row["used"]] == [frame.index for frame in expected.seen]
    assert np.isfinite(row["score"]) and 0 < row["score"] < 1


# --- the image -------------------------------------------------------------------------------------

# Runs what the image would run, and asks it: its health check, without and with the token, then stops it.
INSIDE = """
set -eu
"$PYTHON" -m liveness.serve --exported /code/exported --host 0.0.0.0 >/tmp/said 2>&1 &
for _ in $(seq 240); do grep -q serving /tmp/said && break; sleep 0.25; done
"$PYTHON" -c "$CHECK"
"$PYTHON" - <<'PYTHON'
import json, os, urllib.error, urllib.request
def ask(path, data=None, **headers):
    request = urllib.request.Request("http://127.0.0.1:8000" + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
clip = open("/clips/clip.mp4", "rb").read()
print(json.dumps([ask("/score", clip), ask("/score", clip, Authorization="Bearer " + os.environ["LIVENESS_TOKEN"])]))
PYTHON
kill $!
wait $! || exit 7
cat /tmp/said >&2
find /tmp -mindepth 1 -maxdepth 1 -user $(id -u) -printf '%f\\n' >&2
"""


@needs_packages
@pytest.mark.full
def test_the_runtime_image_serves_as_another_user_from_a_root_it_cannot_write(tmp_path):
    why = reason_against()
    if why:
        pytest.skip(f"no containers can be made here: {why}")
    exported, code = write_exported(tmp_path / "exported"), tmp_path / "code"
    for source, path in copied_into_the_image("Dockerfile.runtime"):
        source = exported if path.startswith("exported") else source
        target = code / ("exported" if path.startswith("exported") else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    (tmp_path / "clips").mkdir()
    portrait_clip(tmp_path / "clips" / "clip.mp4")
    subprocess.run(["chmod", "-R", "a+rX", str(tmp_path)], check=True)
    tmp_path.parent.chmod(0o755)
    check = re.search(r'CMD \["python", "-c", "(import urllib.*)"\]', dockerfile())
    assert check
    places = {Path(importlib.util.find_spec(name).origin).parents[1] for name in NEEDED[1:]}  # type: ignore[union-attr]
    packages = [place for place in places if not place.is_relative_to(sys.prefix)]
    mounts = [(tmp_path / "clips", "/clips", True)]
    mounts += [(place, f"/packages/{number}", True) for number, place in enumerate(packages)]
    path = os.pathsep.join(["/code/src", *(inside for _, inside, _ in mounts[1:])])
    env = {"CHECK": check[1], "LIVENESS_TOKEN": "a-token-for-this-container", "HOME": "/tmp", "PYTHONPATH": path}
    done = Container(code, mounts, USER, env).run("bash", "-c", INSIDE)
    assert done.returncode == 0, done.stdout + done.stderr
    without, known = json.loads(done.stdout)
    assert without[0] == 401 and without[1]["error"] == "unauthorized"
    assert known[0] == 200 and known[1]["status"] == "ok" and len(known[1]["used"]) == 3
    # What it says, and what is left in /tmp.
    assert done.stderr == "serving http://0.0.0.0:8000/ (ctrl-C ends it)\nsaid\n"
    env["LIVENESS_TOKEN"] = ""
    open_to_all = Container(code, mounts, USER, env)
    done = open_to_all.run(sys.executable, "-m", "liveness.serve", "--exported", "/code/exported", "--host", "0.0.0.0")
    assert done.returncode == 1 and done.stderr.startswith("error: --host 0.0.0.0: ")


def dockerfile() -> str:
    return (CODE / "Dockerfile.runtime").read_text(encoding="utf-8")


def test_the_runtime_image_has_no_torch_no_root_and_only_what_it_needs():
    text = dockerfile()
    installed = (CODE / "requirements-serve.txt").read_text(encoding="utf-8")
    assert "pip install -r requirements-serve.txt" in text
    assert not re.search(r"^(torch|timm|pandas|hydra-core|albumentations|scipy)==", installed, re.MULTILINE)
    assert re.search(rf"^USER {USER}:{USER}$", text, re.MULTILINE) and text.index("USER") < text.index("ENTRYPOINT")
    assert "HEALTHCHECK" in text and "/health" in text and "STOPSIGNAL SIGTERM" in text
    assert text.index("pip install") < text.index("COPY --chmod=755")
    copied = {path: source for source, path in copied_into_the_image("Dockerfile.runtime")}
    assert [
        str(source) for path, source in copied.items() if not path.startswith("exported") and not source.exists()
    ] == []
    assert "src" in copied and not {"weights", "tests", "raw", "data"} & set(copied)


# --- load ------------------------------------------------------------------------------------------


@needs_packages
@pytest.mark.extras
def test_under_load_no_answer_is_lost_and_memory_stays_flat(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(CODE / "benchmarks"))
    import serve_load

    clips = [portrait_clip(tmp_path / f"{number}.mp4", frames=10 + number) for number in range(3)]
    exported = write_exported(tmp_path / "exported")
    found = serve_load.benchmark(exported, clips, [1, 8, 64], 60, 15, [])
    assert all(found["checks"].values()), json.dumps(found, indent=1)
    assert found["workers_killed"] > 3
    assert sum(level["scored"] for level in found["levels"]) > 60
