#!/usr/bin/env bash
# See it pass: shellcheck, ruff, the import rules, types, then pytest.
#
#   bash test.sh [--full] [--extras] [PYTEST ARGUMENTS]       for example: bash test.sh -k predict
#
#   --full   also the slow tests (minutes)
#   --extras also the tests of optional packages (liveness[identity], liveness[openvino], liveness[bulk], DVC, a local S3
#            server), which it installs
#
# Makes .venv with the development tools, unless PYTHON names an interpreter that has them.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

case ${1:-} in -h | --help) usage; exit 0 ;; esac

extras=()
[[ " $* " != *" --extras "* ]] || extras=(--identity --export --bulk)
[[ -n ${PYTHON:-} ]] || bash "$CODE/scripts/setup.sh" --dev "${extras[@]}"
((${#extras[@]} == 0)) || bash "$CODE/scripts/setup_dvc.sh" --s3
pick_python
export PYTHON=$PY
# The tools are beside the interpreter.
PATH="$(dirname -- "$PY"):$PATH"
for tool in shellcheck ruff lint-imports mypy pytest; do
  command -v "$tool" >/dev/null || fail "$tool is missing beside $PY; run: bash scripts/setup.sh --dev"
done

cd "$CODE"
# mypy takes a core for most of a minute, so it runs beside everything else; what it finds is told at the end.
types=$(mktemp)
mypy --no-error-summary >"$types" 2>&1 &
mypy=$!
trap 'kill "$mypy" 2>/dev/null || true; rm -f "$types"' EXIT
shellcheck -- *.sh scripts/*.sh .ci/run
ruff check .
ruff format --check .
lint-imports --no-cache --no-logo
# A stray setting of the caller must not decide what the tests see.
unset LIVENESS_ROOT DATA ENSEMBLE NGPU NNODES NODE_RANK MASTER_ADDR DRY_RUN
# The tests of a file stay together in one process, since they share what they make. One process more than there are
# cores: many tests wait for a server, a deadline or a process of their own.
code=0
"$PY" -m pytest -n "$(($(cores) + 1))" --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@" || code=$?
if ! wait "$mypy"; then
  cat "$types" >&2
  fail "mypy found what stands above"
fi
exit "$code"
