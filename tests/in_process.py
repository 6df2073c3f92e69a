"""What a driver does, called in this process: the interpreter and torch are loaded once for all tests.

prepare_here(root, "tiny", "folds.n=3")                        # prepare_data.sh tiny -o folds.n=3
train_here(root, "-c", "convnext_xlarge", "--fold", "0")       # python -m liveness.train; its exit code
predict_here(root, clips, root / "out", "--strict")            # predict.sh; its exit code
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from liveness import predict, train
from liveness.base import files
from liveness.base.compose import load_data
from liveness.base.errors import run
from liveness.sets.folds import fold_set
from liveness.sets.preparation import prepare_set


@contextmanager
def at_home(root: Path) -> Iterator[pytest.MonkeyPatch]:
    """LIVENESS_ROOT, one thread and the handlers of signals are as in a process of its own, and are taken back."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIVENESS_ROOT", str(root))
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setattr(files, "_swept", set())  # a process of its own looks for what dead ones left
            yield patch
    finally:
        torch.set_num_threads(threads)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def prepare_here(root: Path, name: str, *override: str) -> None:
    with at_home(root):
        data = load_data(name, list(override))
        prepare_set(data)
        fold_set(root / "data" / name, data.folds)


def train_here(root: Path, *arguments: str) -> int:
    with at_home(root) as patch:
        patch.setattr(sys, "argv", ["train", *arguments])
        return train.main()


def predict_here(root: Path, *arguments: str | Path) -> int:
    """What predict.sh starts; its exit code. What it says of a user's mistake is on stderr, as a process says it."""
    with at_home(root) as patch:
        patch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run(predict.main)
        return ended.value.code
