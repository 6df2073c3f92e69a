"""A Ray cluster: one that is there, or one of this machine alone that ends with the run.

    with joined("10.0.0.7:6379") as capacity: ...          "" starts one here, on loopback, without a dashboard

Sends nothing to anyone: usage statistics are off. Looks for nothing: a cluster file that another run has left behind
would otherwise lead ``ray.init`` to a cluster that may be gone.
"""

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from liveness.base.errors import UserError, first_line
from liveness.base.files import workspace
from liveness.base.machine import cores, free_memory

MOST_THREADS = 8  # of one scoring process on CPUs
ANSWER_SECONDS = 180  # until every machine has said what it has
_STARTS = 3  # on a busy machine Ray's own processes may be too late for each other
_STORE_BYTES = 1 << 31  # for what goes from process to process on this machine, at most


@dataclass(frozen=True)
class Capacity:
    """What a cluster has. scorers: processes that score at once; threads: of each, where it has no GPU."""

    machines: int
    cores: int
    gpus: int
    scorers: int
    threads: int


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Be a part of the cluster at ``address`` (HOST:PORT), or of a new one; a UserError where that fails."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # what it says, it says to us
    if address:
        _require_answer(address)
    else:  # inherited by all that Ray starts here; on Linux too, the first keeps it to the loopback
        os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0", **_settings()}
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UserError(f'the package {error.name} is missing; install: pip install "liveness[train,bulk]"') from error
    _join(address)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    settings: dict[str, Any] = {"address": address or "local", "logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        settings["runtime_env"] = {"env_vars": _settings()}
    else:
        store = min(_STORE_BYTES, free_memory() // 4)
        settings |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": store}
    for attempt in range(1 if address else _STARTS):
        try:
            with _without_stderr():
                ray.init(**settings)
            return
        except Exception as error:  # of all kinds, plain ones too
            ray.shutdown()
            if not address and attempt < _STARTS - 1:
                continue
            raise UserError(
                f"no Ray cluster at {address}: {first_line(error)}; expected a running head whose Ray, Python and "
                f"RAY_AUTH_MODE ({os.environ.get('RAY_AUTH_MODE') or 'not set; try token'}) are those of this process"
                if address
                else f"Ray does not start on this machine: {first_line(error)}; expected room in /tmp and idle cores"
            ) from error


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's compiled part tells its log level there, whatever the level is."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def measure_capacity(on_gpus: bool) -> Capacity:
    """What the machines that are there now have; ``on_gpus``: whether GPUs are of use."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    each = [int(machine.get("CPU", 0)) for machine in machines]
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines) if on_gpus else 0
    if not any(each):
        raise UserError("no machine of the cluster offers a core; expected ray start --num-cpus N with N of at least 1")
    threads = min(MOST_THREADS, min(count for count in each if count))
    return Capacity(len(machines), sum(each), gpus, gpus or sum(count // threads for count in each), threads)


def ask_machines(question: Any, *arguments: Any) -> dict[str, Any]:
    """What a function answers on each machine, by its address; a UserError where one does not answer in time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    machines = [node for node in ray.nodes() if node["Alive"]]
    ask = ray.remote(num_cpus=0, max_retries=3)(question)
    asked = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node["NodeManagerAddress"]
        for node in machines
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    if late:
        raise UserError(f"{asked[late[0]]}: no answer in {ANSWER_SECONDS} s; expected every machine to run tasks")
    try:
        return {asked[one]: ray.get(one, timeout=ANSWER_SECONDS) for one in done}
    except ray.exceptions.RayError as error:
        missing = "liveness is not installed there" if "ModuleNotFoundError" in str(error) else first_line(error)
        raise UserError(
            f"a machine of the cluster cannot take part: {missing}; docs/bulk.md has what it needs"
        ) from error


def _settings() -> dict[str, str]:
    """Environment variables of the processes that work. The first are set before NumPy is imported, as
    liveness/__init__.py does it: Ray imports NumPy first."""
    spinning = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
    unseen = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}  # GPUs, by what has asked for none
    return spinning | unseen | {"NO_ALBUMENTATIONS_UPDATE": "1", "LIVENESS_ROOT": str(workspace())}


def _require_answer(address: str) -> None:
    """A UserError unless something listens at HOST:PORT."""
    host, colon, port = address.rpartition(":")
    if not colon or "://" in address or not port.isdecimal():
        raise UserError(f"--address {address}: expected HOST:PORT of the head, for example 10.0.0.7:6379")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no answer ({first_line(error)}); expected a running head") from error
