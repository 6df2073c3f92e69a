"""Another launcher's RANK and WORLD_SIZE in the environment are not ours: a process alone waits for nobody."""

import pytest

from liveness.base import launch

LEFT_OVER = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"}


def parent(tmp_path, *words: str):
    """A /proc in which process 7 has this command line."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "command", "expected"),
    [
        ({launch.LAUNCHER: "7"}, ["python", "-m", "liveness.torchrun"], True),
        ({launch.LAUNCHER: "8"}, ["bash", "predict.sh"], False),  # started from within a training
        ({}, ["slurmstepd"], False),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["bash"], False),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["python", "/opt/bin/torchrun", "--nproc_per_node", "2"], True),
        ({"TORCHELASTIC_RUN_ID": "none"}, ["python", "-m", "torch.distributed.run", "--standalone"], True),
    ],
)
def test_only_a_torchrun_that_is_the_parent_counts(tmp_path, variables, command, expected):
    assert launch.by_torchrun({**LEFT_OVER, **variables}, 7, parent(tmp_path, *command)) is expected


def test_what_others_have_left_is_passed_over(monkeypatch):
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    assert (launch.global_rank(), launch.world(), launch.local_rank(), launch.local_world()) == (0, 1, 0, 1)
    monkeypatch.setattr(launch, "BY_TORCHRUN", True)
    assert (launch.global_rank(), launch.world(), launch.local_rank(), launch.local_world()) == (1, 2, 1, 2)
