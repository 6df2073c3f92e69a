"""How far a long loop is: a bar on a terminal, a line every half minute elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_progress(results: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The results, and on stderr how many of ``total`` videos there are so far; ``what``: the work, for the bar."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        yield from tqdm(results, total=total, unit="video", desc=what)
        return
    started = told = time.monotonic()
    for done, result in enumerate(results, 1):
        yield result
        if time.monotonic() - told > 30 or done == total:
            told = time.monotonic()
            print(f"  {done}/{total} videos, {told - started:.0f} s", file=sys.stderr, flush=True)
