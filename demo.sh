#!/usr/bin/env bash
# See it work: from drawn clips to a submission, through the real drivers. It takes minutes on two CPU cores.
#
#   bash demo.sh
#
# Makes   .venv (unless PYTHON names an interpreter), raw/demo and raw/demo_test, then what the
#         drivers make: data/demo, runs/demo, weights/demo, result/submission.csv
# A second run keeps what is finished. The clips are drawn, so their figures show that the pipeline
# works, and not how well it does on people.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  ?*) misuse "unexpected argument $1" ;;
esac

times=()
# step NAME COMMAND…: run it and note its seconds.
step() {
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s: %s\n' "$name" "${*#"$CODE/"}"
  forward "$@"
  times+=("$(printf '%-10s %4d s' "$name" $((SECONDS - start)))")
}

[[ -n ${PYTHON:-} ]] || step install bash "$CODE/scripts/setup.sh"
pick_python
export PYTHON=$PY ENSEMBLE=demo
unset DATA

begin=$SECONDS
step clips "$PY" -m liveness.make_demo
step prepare bash "$CODE/prepare_data.sh" demo
step train bash "$CODE/train.sh" demo
step predict bash "$CODE/predict.sh" "$ROOT/raw/demo_test" "$ROOT/result"

printf '\n== seconds\n'
printf '%s\n' "${times[@]}" "$(printf '%-10s %4d s (without the installation)' together $((SECONDS - begin)))"
printf '\n== result\n'
"$PY" -m liveness.evaluate demo | sed -n 's/^ *\(out-of-fold EER\)/\1/p'
"$PY" - "$ROOT/result/predictions.csv" "$ROOT/raw/demo_test/truth.csv" <<'PYTHON'
import csv
import sys

predictions, truth = (
    {row["fname"]: row for row in csv.DictReader(open(path, encoding="utf-8"))} for path in sys.argv[1:]
)
live = {name for name, row in predictions.items() if row["decision"] == "live"}
right = sum((name in live) == (row["liveness_score"] == "1") for name, row in truth.items())
print(f"{right} of {len(truth)} new clips decided rightly")
PYTHON
printf 'submission: %s\n' "$ROOT/result/submission.csv"
