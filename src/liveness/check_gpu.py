"""Try on this machine what training and prediction need of its GPUs; leaves a JSON to send back.

    python -m liveness.check_gpu [--out FILE]

Driver and torch, room in /dev/shm, sums over all GPUs, training steps of the 1st place's recipes at their real size
with memory and images per second, the same bits in any company, and prediction with eight members; random weights
and generated clips, under five minutes. On a CPU narrow models take the same way. Writes result/check_gpu.json.
Exit code 1: a check failed, and its line says why.
"""

import argparse
from pathlib import Path

from liveness.base.errors import run
from liveness.base.files import show_path, workspace, write_json
from liveness.base.launch import global_rank


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    from liveness.laboratory.gpu_check import check_machine, sum_over_processes

    if args.all_reduce:
        rate = sum_over_processes(args.narrow)
        if global_rank() == 0:
            print(rate)
        return 0
    report = check_machine(args.narrow, lambda line: print(line, flush=True))
    out = args.out or workspace() / "result" / "check_gpu.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, report)
    gpus = ", ".join(gpu["name"] for gpu in report["machine"]["gpus"]) or "no GPU"
    print(f"{gpus}: {'all checks passed' if report['ok'] else 'a check failed'}; {show_path(out)}")
    return 0 if report["ok"] else 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.check_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes (default: result/check_gpu.json)")
    parser.add_argument("--narrow", action="store_true", help="narrow models also on a GPU")
    parser.add_argument("--all-reduce", action="store_true", help=argparse.SUPPRESS)  # one process of that check
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
