#!/usr/bin/env bash
# Run a verb with the interpreter that the drivers take, for programs that run commands (dvc.yaml).
#
#   bash scripts/verb.sh VERB [ARGS ...]           for example: bash scripts/verb.sh evaluate demo
#
# It is python -m liveness.VERB; `python -m liveness -h` lists the verbs.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac
pick_python
[[ $# -gt 0 ]] || misuse "expected VERB"
exec "$PY" -m liveness "$@"
