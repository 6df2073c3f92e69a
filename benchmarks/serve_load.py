"""The service under load: 1, 8 and 64 callers, broken and hostile bodies among the clips, a worker killed each second.

    python benchmarks/serve_load.py --exported DIR --clips raw/demo_test/videos [--requests 120] [--seconds 90]
                                    [--callers 1 8 64] [--limit=--queue=16] [--out FILE]

Starts ``python -m liveness.serve`` on loopback. A level ends after --requests or --seconds, and there are two for
each number of callers. In the calm one all requests are clips, and nothing else happens. In the other one six of ten
requests are clips; the rest are drawn from random bytes, a clip that breaks off, a text, an empty body, a form that
breaks off, a body that is too large, no HTTP, a caller that hangs up in the middle of its body. All the while a
connection that sends nothing and one that trickles its headers are held open, and each second one of the decoders
gets SIGKILL. In the end SIGTERM is sent while clips are worked on.

Prints JSON. ``lost``: requests without an answer, of callers that waited for one; ``wrong``: answers that are not
JSON or have a status that their request must not have. Latencies (milliseconds) are those of clips that were scored,
from connecting to the answer's last byte; on a machine that does other work trust ``processor_ms_per_clip``.
``memory_mib``: of the service's process, and of it with its workers (shared pages counted once, PSS), sampled each
second. Exit code 1 where anything is lost or wrong, or memory has grown.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER.parent / "src"
sys.path[:0] = [str(SOURCE)]
MIB = 1 << 20
BODY_MIB = 4  # that the service allows here
PATIENCE = 120  # seconds that a caller waits for its answer
GROWTH = 0.1, 24  # of the service's memory from the first third of the run to the last: share, MiB
BUSY, CRASHED = 429, 422


@dataclass
class Request:
    """What is sent, and the statuses that it may get besides 429."""

    kind: str
    body: bytes
    statuses: tuple[int, ...]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Level:
    """What became of the requests of so many callers."""

    callers: int
    calm: bool
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0
    processor_seconds: float = 0.0  # of the service and of its workers

    def to_dict(self) -> dict:
        """As it stands in the JSON."""
        shares = (50, 95, 99, 100) if self.latencies else ()
        latency = {f"p{share}": round(1000 * float(np.percentile(self.latencies, share)), 1) for share in shares}
        each = round(1000 * self.processor_seconds / max(1, len(self.latencies)), 1)
        return {
            "callers": self.callers,
            "calm": self.calm,
            "seconds": round(self.seconds, 1),
            "answers": dict(sorted(self.statuses.items())),
            "scored": len(self.latencies),
            "scored_per_second": round(len(self.latencies) / max(self.seconds, 1e-9), 2),
            "latency_ms": latency,
            "processor_ms_per_clip": each if self.calm else None,  # killed workers take theirs along
            "lost": self.lost,
            "wrong": self.wrong,
        }


class Service:
    """The process, its port, and what it takes of memory."""

    def __init__(self, exported: Path, limits: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-m", "liveness.serve", "--exported", str(exported), "--port", "0"]
        command += [f"--mib={BODY_MIB}", *limits]
        started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        found = re.match(r"serving http://127\.0\.0\.1:(\d+)/", self.process.stdout.readline())
        if not found:
            raise SystemExit(self.process.communicate()[1])
        self.port, self.start_seconds = int(found[1]), time.monotonic() - started
        self.killed, self.kills = 0, False
        self.memory: list[tuple[int, int]] = []

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, dict]:
        """Status and JSON of an answer; an OSError or HTTPException where there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def decoders(self) -> list[int]:
        """The workers' processes: the children of its children (the server that forks them has none of its own)."""
        return [grandchild for child in children(self.process.pid) for grandchild in children(child)]

    def watch(self, over: threading.Event) -> None:
        """Once a second: note the memory, kill a decoder."""
        while not over.wait(1):
            decoders = self.decoders()
            own = memory_of(self.process.pid)
            self.memory.append((own, own + sum(map(memory_of, decoders))))
            if decoders and self.kills:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(decoders), signal.SIGKILL)
                    self.killed += 1


def children(process: int) -> list[int]:
    """Of all threads of a process; none where it has ended."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def processor_seconds_of(process: int) -> float:
    """User and system time that a process has taken; 0 where it has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def memory_of(process: int) -> int:
    """Bytes, shared pages by share (PSS); 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def requests_of(clips: list[bytes], seed: int, calm: bool) -> Iterator[Request]:
    """Endless: what a caller sends, one after the other."""
    dice = random.Random(seed)
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="clip"; filename="x"\r\n\r\n'
    bad = [
        Request("random", dice.randbytes(50_000), (422,)),
        Request("breaks off", clips[0][: len(clips[0]) // 2], (200, 422)),
        Request("text", b"no clip at all", (422,)),
        Request("empty", b"", (400,)),
        Request("form breaks off", part + clips[0][:1000], (400,), form),
        Request("too large", bytes(BODY_MIB * MIB + 1), (413,)),
        Request("no http", b"\0\1\2 GARBAGE\r\n\r\n", (400,)),
        Request("hangs up", clips[0], ()),
    ]
    number = seed
    while True:
        number += 1
        if calm or number % 10 < 6:
            clip = clips[number % len(clips)]
            yield (
                Request("clip", clip, (200,))
                if number % 2
                else Request("form", part + clip + b"\r\n--b--\r\n", (200,), form)
            )
        else:
            yield bad[dice.randrange(len(bad))]


def send(service: Service, request: Request, level: Level, lock: threading.Lock) -> None:
    """Send one request, and hold its answer against what it may be."""
    started = time.monotonic()
    try:
        if request.kind in ("no http", "hangs up"):
            status, body = send_raw(service, request)
        else:
            status, body = service.ask("POST", "/score", request.body, request.headers)
    except (OSError, http.client.HTTPException) as error:
        with lock:
            level.lost.append(f"{request.kind}: {type(error).__name__}: {error}")
        return
    except ValueError:
        with lock:
            level.wrong.append(f"{request.kind}: an answer that is not JSON")
        return
    taken = time.monotonic() - started
    with lock:
        killed = status == CRASHED and body.get("error") == "crashed" and 200 in request.statuses
        level.statuses[f"{status} {body.get('error', request.kind)}" if status else request.kind] += 1
        if status and status != BUSY and not killed and status not in request.statuses:
            level.wrong.append(f"{request.kind}: {status} {body}")
        if status == 200:
            level.latencies.append(taken)


def send_raw(service: Service, request: Request) -> tuple[int, dict]:
    """Bytes that are no request, or half of one from a caller that is gone then (status 0)."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as connection:
        if request.kind == "hangs up":
            head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(request.body)}\r\n\r\n"
            connection.sendall(head.encode() + request.body[: len(request.body) // 2])
            return 0, {}
        connection.sendall(request.body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def run_level(service: Service, clips: list[bytes], callers: int, calm: bool, most: int, seconds: float) -> Level:
    """So many callers at a time, until ``most`` requests are answered or the time is over."""
    level, lock = Level(callers, calm), threading.Lock()
    left, end = iter(range(most)), time.monotonic() + seconds

    def call(number: int) -> None:
        for request in requests_of(clips, number, calm):
            with lock:
                if next(left, None) is None or time.monotonic() > end:
                    return
            send(service, request, level, lock)

    def processor_seconds() -> float:
        return sum(map(processor_seconds_of, [service.process.pid, *service.decoders()]))

    started, before = time.monotonic(), processor_seconds()
    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    level.seconds, level.processor_seconds = time.monotonic() - started, processor_seconds() - before
    return level


@contextmanager
def nuisances(service: Service) -> Iterator[None]:
    """A connection that sends nothing and one that trickles, opened again as the service closes them."""
    over = threading.Event()

    def hold(trickles: bool) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", service.port), 5) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n" if trickles else b"")
                connection.settimeout(0.5)
                while not over.is_set():
                    try:
                        if not connection.recv(4096):
                            break
                    except TimeoutError:
                        connection.sendall(b"X: y\r\n" if trickles else b"")

    threads = [threading.Thread(target=hold, args=(trickles,)) for trickles in (False, True)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def stop(service: Service, clips: list[bytes]) -> dict:
    """SIGTERM while four clips are worked on: how many were answered, the exit code, what stands on stderr."""
    connections = []
    for number in range(4):
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
        connection.request("POST", "/score", clips[number % len(clips)])
        connections.append(connection)
    time.sleep(0.2)
    service.process.send_signal(signal.SIGTERM)
    answered = Counter(connection.getresponse().status for connection in connections)
    _, said = service.process.communicate(timeout=PATIENCE)
    return {
        "answers": {str(status): n for status, n in answered.items()},
        "exit_code": service.process.returncode,
        "stderr": said,
    }


def benchmark(
    exported: Path, clips: list[Path], callers: list[int], most: int, seconds: float, limits: list[str]
) -> dict:
    """The whole run, as JSON."""
    bodies = [path.read_bytes() for path in clips]
    service = Service(exported, limits)
    over = threading.Event()
    watcher = threading.Thread(target=service.watch, args=(over,))
    try:
        service.ask("POST", "/score", bodies[0])
        watcher.start()
        levels = [run_level(service, bodies, number, True, most, seconds) for number in callers]
        service.kills = True
        with nuisances(service):
            levels += [run_level(service, bodies, number, False, most, seconds) for number in callers]
        service.kills = False
        time.sleep(1)
        figures = {name: service_figure(service, f"liveness_{name}") for name in ("places", "workers_started")}
        over.set()
        watcher.join()
        stopped = stop(service, bodies)
    finally:
        over.set()
        service.process.kill()
        service.process.communicate()
    sizes = [len(body) // 1024 for body in bodies]
    found = {"clips": f"{len(bodies)} of {min(sizes)} to {max(sizes)} KiB", "limits": limits}
    return found | summarise(service, levels, figures, stopped)


def summarise(service: Service, levels: list[Level], figures: dict[str, int], stopped: dict) -> dict:
    """What was measured, and whether it is as it has to be."""
    own = np.array([sample[0] for sample in service.memory]) / MIB
    third = max(1, len(own) // 3)
    first, last = float(np.median(own[:third])), float(np.median(own[-third:]))
    memory = {"first_third": first, "last_third": last, "most": float(own.max())}
    memory["most_with_workers"] = max(sample[1] for sample in service.memory) / MIB
    return {
        "start_seconds": round(service.start_seconds, 2),
        "levels": [level.to_dict() for level in levels],
        "workers_killed": service.killed,
        **figures,
        "memory_mib": {name: round(value, 1) for name, value in memory.items()},
        "stop": stopped,
        "checks": {
            "no_answer_lost": not any(level.lost for level in levels),
            "no_answer_wrong": not any(level.wrong for level in levels),
            "memory_flat": last <= max(first * (1 + GROWTH[0]), first + GROWTH[1]),
            "every_place_given_back": figures["places"] == 0,
            "stop_answers_what_was_accepted": stopped["answers"] == {"200": 4} and stopped["exit_code"] == 0,
            "nothing_of_callers_in_the_log": stopped["stderr"] == "",
        },
    }


def service_figure(service: Service, name: str) -> int:
    """A value of /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exported", type=Path, required=True, metavar="DIR")
    parser.add_argument("--clips", type=Path, required=True, metavar="FOLDER", help="of clips that can be scored")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=120, help="of a level, at most")
    parser.add_argument("--seconds", type=float, default=90, help="of a level, at most")
    parser.add_argument(
        "--limit", action="append", default=[], help="an option of liveness serve, for example --queue=64"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    clips = sorted(path for path in args.clips.iterdir() if path.is_file() and path.stat().st_size < BODY_MIB * MIB)[:8]
    load = os.getloadavg()[0]
    found = benchmark(args.exported, clips, args.callers, args.requests, args.seconds, args.limit)
    about = {"cores": len(os.sched_getaffinity(0)), "load_at_start": round(load, 2), "python": sys.version.split()[0]}
    report = {"benchmark": "serve_load", "command": "python " + " ".join(sys.argv), "machine": about, **found}
    text = json.dumps(report, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(report["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
