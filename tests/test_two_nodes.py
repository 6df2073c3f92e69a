"""Training over two machines: two network namespaces on this one (scripts/test_two_nodes.sh)."""

import re

import pytest

NO_NAMESPACES = 3


@pytest.mark.full
def test_two_nodes_train_what_one_process_trains(run_driver):
    done = run_driver("scripts/test_two_nodes.sh", timeout=400)
    if done.returncode == NO_NAMESPACES:
        pytest.skip(f"no network namespaces can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"two nodes train what one process trains: .*", done.stdout.splitlines()[-1])


def test_the_script_says_what_it_does_and_takes_no_arguments(run_driver):
    done = run_driver("scripts/test_two_nodes.sh", "--help")
    assert done.returncode == 0 and "bash scripts/test_two_nodes.sh" in done.stdout
    assert run_driver("scripts/test_two_nodes.sh", "now").returncode == 2
