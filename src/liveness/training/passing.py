"""How a loader's workers hand their samples over: through shared memory, or through pipes where that is small.

torch's way is /dev/shm, of which a container has 64 MB unless it was started with --shm-size; a worker that finds
it full ends the training ("No space left on device", or SIGBUS). Pipes copy every batch twice more and give the
same numbers.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from liveness.base import distributed, launch
from liveness.base.config import View

SHM = Path("/dev/shm")
PREFETCH = 2  # torch's own: batches that each worker makes ahead
_LEAST = 1 << 20  # the workers' semaphores lie there too: with less there can be none
_told = False


_Item = tuple[str, list[int], torch.Tensor | None]  # of HeldOutVideos


def bytes_of_batch(images: int, view: View) -> int:
    """A batch of float32 views, in bytes."""
    return images * 3 * view.size * view.size * 4


def views_per_frame(view: View) -> int:
    """How many views ``contract.views_of`` cuts from a frame."""
    scales = len(view.scales) if view.kind == "face" else 1
    return scales * (1 + len(view.crops)) * (2 if view.mirror else 1)


def choose_way(workers: int, each: int) -> tuple[int, bool]:
    """(workers that can be had, whether their batches of ``each`` bytes go through pipes).

    Half of what is free may be filled: the loader of the held-out fold runs beside that of the training.
    """
    if not workers or not SHM.is_dir():
        return workers, False
    about = os.statvfs(SHM)
    free = about.f_bavail * about.f_frsize
    need = (workers * PREFETCH + 2) * each  # made ahead, and in the hands of the training
    need *= launch.local_world() * launch.trained_at_once()
    if free < _LEAST:
        _tell(f"{SHM} has {free // 1024} KiB free, too little for loader processes: the samples are made in turn")
        return 0, False
    if need <= free / 2:
        return workers, False
    _tell(
        f"{SHM} has {free / 1e6:.0f} MB free, the batches under way may take {need / 1e6:.0f} MB: they go through "
        "pipes, which is slower"
    )
    return workers, True


def _tell(text: str) -> None:
    global _told
    if not _told and distributed.rank() == 0:
        print(f"note: {text}; in a container: docker run --shm-size=2g", file=sys.stderr, flush=True)
    _told = True


def pack_batch(samples: list[tuple[torch.Tensor, float]]) -> tuple[np.ndarray, np.ndarray]:
    """torch's default batch of (image, label) as arrays, which are pickled into the pipe."""
    images, labels = zip(*samples, strict=True)
    return np.stack([image.numpy() for image in images]), np.array(labels, dtype=np.float64)


def unpack_batch(batch: tuple[np.ndarray, np.ndarray], pinned: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensors of ``pack_batch``'s arrays, in page-locked memory if asked."""
    images, labels = (torch.from_numpy(part) for part in batch)
    return (images.pin_memory(), labels.pin_memory()) if pinned else (images, labels)


def pack_video(item: _Item) -> tuple[str, list[int], np.ndarray | None]:
    """An item of HeldOutVideos with its views as an array, or None."""
    name, frame_ids, views = item
    return name, frame_ids, None if views is None else views.numpy()


def unpack_video(item: tuple[str, list[int], np.ndarray | None]) -> _Item:
    name, frame_ids, views = item
    return name, frame_ids, None if views is None else torch.from_numpy(views)


def copy_video(item: _Item) -> _Item:
    """The same in this process's own memory."""
    name, frame_ids, views = item
    return name, frame_ids, None if views is None else views.clone()


def as_it_is(item: _Item) -> _Item:
    return item


def quiet_worker(_: int) -> None:
    """A loader worker is one of several and keeps to one thread; ctrl-C and SIGTERM are its parent's
    affair, and it ends with its parent: it has inherited the lock of the run's folder."""
    import cv2

    launch.die_with_parent()
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
