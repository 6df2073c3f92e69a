#!/usr/bin/env bash
# Train the demo set with this state of the code and with another one, and tell in Markdown what differs.
#
#   bash scripts/review_change.sh REVISION [OUT]             for example: bash scripts/review_change.sh main
#
# Both states prepare, train and evaluate the same drawn clips, each in a workspace of its own in a temporary folder, which
# is removed. If the other state cannot do so, the review is of this one alone, and says so on stderr.
# Writes   OUT (default: result/review): review.md, metrics.json, det.csv, scores.csv, report.html
# Needs    git; the other state's packages too, where its requirements differ

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  -*) misuse "unknown option $1" ;;
esac
pick_python
[[ $# == 1 || $# == 2 ]] || misuse "expected REVISION [OUT]"
revision=$(git -C "$CODE" rev-parse --verify --quiet "$1^{commit}") || fail "$1: no such revision in $CODE"
out=${2:-$ROOT/result/review}

work=$(mktemp -d)
trap 'git -C "$CODE" worktree remove --force "$work/code" 2>/dev/null || true; rm -rf "$work"' EXIT
git -C "$CODE" worktree add --quiet --detach "$work/code" "$revision"
unset DATA ENSEMBLE NNODES PARALLEL DRY_RUN

# make_report CODE WORKSPACE INTERPRETER: prepare the demo set, train its members, evaluate, report.
make_report() {
  LIVENESS_ROOT=$2 PYTHON=$3 forward bash "$1/prepare_data.sh" demo
  LIVENESS_ROOT=$2 PYTHON=$3 forward bash "$1/train.sh" demo
}

theirs=$PY
if ! cat "$CODE"/{requirements,constraints}.txt | cmp -s - <(cat "$work"/code/{requirements,constraints}.txt); then
  forward bash "$work/code/scripts/setup.sh"
  theirs=$work/code/.venv/bin/python
fi
mkdir -p "$work/ours" "$work/theirs"
LIVENESS_ROOT=$work/theirs forward "$PY" -m liveness.make_demo
cp -R "$work/theirs/raw" "$work/ours/raw"

make_report "$CODE" "$work/ours" "$PY"
against=()
code=0
(make_report "$work/code" "$work/theirs" "$theirs") || code=$?
((code != 143)) || exit 143
if [[ $code == 0 && -e $work/theirs/result/report_demo_demo.json ]]; then
  against=(--against "$work/theirs/result/report_demo_demo.json" --names "this change" "$(git -C "$CODE" rev-parse --short "$revision")")
else
  echo "$(basename -- "$SELF"): $1 could not be trained and evaluated; there is no comparison with it" >&2
fi
LIVENESS_ROOT=$work/ours "$PY" -m liveness.review demo "${against[@]}"
mkdir -p "$out"
cp "$work/ours/result/review_demo_demo/"* "$work/ours/result/report.html" "$out/"
