"""The check of a machine's GPUs, on the CPU with narrow models: the same way, and a failure that is told."""

import json

import pytest
import torch

from liveness import check_gpu
from liveness.laboratory import gpu_check


@pytest.mark.full
def test_all_checks_pass_on_a_cpu_and_leave_a_report(workspace, run_driver):
    done = run_driver("scripts/check_gpu.sh", env={"NGPU": "0"}, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((workspace / "result" / "check_gpu.json").read_text())
    assert report["ok"] and report["narrow"] and report["machine"]["gpus"] == []
    checks = report["checks"]
    assert list(checks) == ["shared_memory", "all_reduce", "training_step", "same_bits", "prediction"]
    assert checks["all_reduce"]["processes"] == 2 and checks["all_reduce"]["gb_per_second"] > 0
    assert set(checks["training_step"]["recipes"]) == {"convnext_xlarge", "convnext_large"}
    assert all(figures["images_per_second"] > 0 for figures in checks["training_step"]["recipes"].values())
    assert checks["same_bits"]["different_scores"] > 10
    assert checks["prediction"]["members"] == 8 and checks["prediction"]["clips"] == 12
    assert "all checks passed" in done.stdout and done.stdout.count("ok  ") == 5


def test_a_check_that_fails_is_told_and_the_others_go_on(workspace, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    score, calls = gpu_check._score_together, []

    def differently(*arguments):  # the second time, as if company mattered
        calls.append(1)
        return [scores + (1e-7 if len(calls) > 8 else 0) for scores in score(*arguments)]

    monkeypatch.setattr(gpu_check, "_score_together", differently)
    for name in ("check_all_reduce", "check_training_steps", "check_prediction"):
        monkeypatch.setattr(gpu_check, name, lambda trial: 1 / 0)
    assert check_gpu.main([]) == 1
    said = capsys.readouterr().out
    assert "FAILED same_bits" in said and "ok     shared_memory" in said
    assert said.count("ZeroDivisionError: division by zero") == 3 and "a check failed" in said
    report = json.loads((workspace / "result" / "check_gpu.json").read_text())
    assert not report["ok"] and not report["checks"]["same_bits"]["ok"]
