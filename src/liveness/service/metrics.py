"""Counts and durations for Prometheus (text format 0.0.4). No label holds anything of a caller or a clip."""

import os
from bisect import bisect_left
from collections import Counter
from threading import Lock

BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HELP = {
    "requests": "Answers by HTTP status.",
    "clips": "Scored clips by decision.",
    "refused": "Answers other than a row, by the word in their field error.",
    "workers_started": "Decoder processes that were started, those at the beginning included.",
    "seconds": "Duration of a clip's stages: wait (for a free worker), decode, score.",
    "places": "Clips that are accepted and not answered yet.",
    "places_most": "Clips that may be accepted and not answered yet.",
    "resident_bytes": "Memory of the service's own process.",
    "ready": "Whether clips are accepted.",
}


class Metrics:
    """The service's figures since its start; its methods may be called from every thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()  # name, label, its value
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def count(self, name: str, label: str, value: str) -> None:
        """One more ``liveness_<name>_total{label="value"}``."""
        with self._lock:
            self._counts[name, label, value] += 1

    def observe(self, stage: str, seconds: float) -> None:
        """A stage of a clip took so long."""
        with self._lock:
            self._buckets.setdefault(stage, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1
            self._sums[stage] = self._sums.get(stage, 0.0) + seconds

    def mean(self, *stages: str) -> float:
        """The mean duration of some stages of a clip together, seconds; 0 before the first one."""
        with self._lock:
            return sum(self._sums[stage] / sum(self._buckets[stage]) for stage in stages if stage in self._sums)

    def render(self, gauges: dict[str, int]) -> str:
        """All of it, and these values of the moment: the answer to ``GET /metrics``."""
        lines: list[str] = []
        with self._lock:
            for name in sorted({name for name, _, _ in self._counts}):
                lines += _head(f"{name}_total", "counter", name)
                mine = sorted((label, value, n) for (at, label, value), n in self._counts.items() if at == name)
                lines += [f'liveness_{name}_total{{{label}="{value}"}} {count}' for label, value, count in mine]
            lines += _head("seconds", "histogram", "seconds")
            for stage, buckets in sorted(self._buckets.items()):
                running = 0
                for bound, count in zip((*map(str, BOUNDS), "+Inf"), buckets, strict=True):
                    running += count
                    lines.append(f'liveness_seconds_bucket{{stage="{stage}",le="{bound}"}} {running}')
                lines.append(f'liveness_seconds_sum{{stage="{stage}"}} {self._sums[stage]:.6f}')
                lines.append(f'liveness_seconds_count{{stage="{stage}"}} {running}')
        for name, value in (gauges | {"resident_bytes": resident_bytes()}).items():
            lines += [*_head(name, "gauge", name), f"liveness_{name} {int(value)}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP liveness_{name} {_HELP[about]}", f"# TYPE liveness_{name} {kind}"]


def resident_bytes() -> int:
    """Memory that this process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
