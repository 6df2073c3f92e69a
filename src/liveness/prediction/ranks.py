"""The processes that torchrun started on one folder of videos: they exchange nothing but their presence.

Where this process is the only one, every function returns at once, and torch is not imported.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from liveness.base import launch
from liveness.base.errors import UserError

_PATIENCE = 30 * 24 * 3600.0  # seconds that a process may wait for the others to finish their videos


def is_first() -> bool:
    """Whether this process is the one that speaks and writes the results."""
    return launch.global_rank() == 0


@contextlib.contextmanager
def join_ranks() -> Iterator[None]:
    """Join the other processes, if torchrun started several."""
    if launch.world() == 1:
        yield
        return
    from liveness.base import distributed

    distributed.start("gloo", _PATIENCE)
    try:
        yield
    finally:
        if sys.exc_info()[0] is None:
            distributed.stop()


def wait_for_ranks(how_to_go_on: Callable[[], str]) -> None:
    """Wait until every process has come here; a UserError that ends in ``how_to_go_on()`` where one is gone."""
    if launch.world() == 1:
        return
    from liveness.base import distributed

    try:
        distributed.barrier()
    except RuntimeError as error:
        if not distributed.lost_another(error):
            raise
        time.sleep(5)  # whoever ended may have been told to, and so will this process be
        raise UserError(f"another process ended early; {how_to_go_on()}") from error
