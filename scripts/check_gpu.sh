#!/usr/bin/env bash
# Try on this machine what training and prediction need of its GPUs, in under five minutes.
#
#   bash scripts/check_gpu.sh [--out FILE]
#
# Prints a line for each check (driver and torch, /dev/shm, sums over all GPUs, a few training steps of each
# recipe at its real size, the same bits in any company, prediction with eight members) and writes
# result/check_gpu.json, which is worth sending back. Without a GPU, narrow models take the same way on the CPU.
# Settings NGPU=0 (the CPU on purpose), PYTHON, TMPDIR (12 GiB free are needed there for the eight members).
# Exit 1: a check failed.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac

pick_python
run "$PY" -m liveness.check_gpu "$@"
