#!/usr/bin/env bash
# Make .venv-dvc with DVC and its S3 remote; do nothing if that is done already.
#
#   bash scripts/setup_dvc.sh [--s3]          then: .venv-dvc/bin/dvc repro (docs/cloud.md#dvc)
#
#   --s3          also .venv-s3: the aws command and a local S3 server, which the tests of DVC and of the bucket need
#   PYTHON_BASE   the Python to build on (default: python3)
#
# They are environments of their own, since their packages do not fit beside requirements.txt, and the pipeline needs none
# of them. It needs a network that reaches the package index.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

# make NAME: .venv-NAME with what requirements-NAME.txt pins; the stamp is written last, so a half one is made anew.
make() {
  local venv=$CODE/.venv-$1 pins=$CODE/requirements-$1.txt sum
  sum=$(sha256sum <"$pins")
  [[ ! -e $venv/.installed || $(<"$venv/.installed") != "$sum" ]] || return 0
  echo "setup_dvc: making .venv-$1"
  rm -rf "$venv"
  "${PYTHON_BASE:-python3}" -m venv "$venv" || fail "${PYTHON_BASE:-python3} cannot make a virtual environment; set PYTHON_BASE"
  "$venv/bin/python" -m pip install --disable-pip-version-check --no-input -qq -r "$pins" ||
    fail "pip could not install requirements-$1.txt; the lines above say why; then run this again"
  echo "$sum" >"$venv/.installed"
}

wanted=(dvc)
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  --s3) wanted+=(s3) ;;
  ?*) misuse "unknown argument $1" ;;
esac
for name in "${wanted[@]}"; do make "$name"; done
