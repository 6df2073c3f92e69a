#!/usr/bin/env bash
# Make .venv from the pinned requirements.txt; do nothing if that is done already.
#
#   bash scripts/setup.sh [--notebook] [--identity] [--export] [--bulk] [--dev]
#
#   --notebook    also Jupyter Lab, for jupyter.sh (requirements-notebook.txt)
#   --identity    also what folds.identities=auto needs (requirements-identity.txt)
#   --export      also what liveness export needs, and OpenVINO (requirements-export.txt)
#   --bulk        also what liveness bulk needs (requirements-bulk.txt)
#   --dev         also what test.sh needs (requirements-notebook.txt and requirements-dev.txt)
#   PYTHON_BASE   the Python to build on, 3.11 to 3.13 (default: that of .venv, else python3.11, 3.12, 3.13, python3)
#
# It installs again if a requirements file or the interpreter changed, and starts over if an earlier
# installation was interrupted. It needs a network that reaches the package index, and writes only .venv.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

VENV=$CODE/.venv
BUSY=$VENV/.installing # there while an installation runs, and after one that was interrupted

# identity PYTHON: print its version and home, or nothing if it does not run or its version is not for us.
identity() {
  "$1" -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) and print(sys.version.split()[0], sys.base_prefix)' \
    2>/dev/null || true
}

# base_python: print the Python to build .venv on.
base_python() {
  local candidate
  if [[ -n ${PYTHON_BASE:-} ]]; then
    [[ -n $(identity "$PYTHON_BASE") ]] || fail "PYTHON_BASE=$PYTHON_BASE: not a Python 3.11, 3.12 or 3.13 that runs"
    echo "$PYTHON_BASE"
    return 0
  fi
  for candidate in python3.11 python3.12 python3.13 python3 python; do
    [[ -z $(identity "$candidate") ]] || { echo "$candidate"; return 0; }
  done
  fail "no Python 3.11, 3.12 or 3.13 was found; install one, or name it: PYTHON_BASE=/path/to/python bash scripts/setup.sh"
}

# must_rebuild: true when .venv is absent, broken, half installed, or of another interpreter.
must_rebuild() {
  local now
  [[ -e $VENV/bin/python && ! -e $BUSY ]] || return 0
  now=$(identity "$VENV/bin/python")
  [[ -n $now ]] || return 0
  [[ ! -e $VENV/.interpreter || $(<"$VENV/.interpreter") == "$now" ]] || return 0
  [[ -n ${PYTHON_BASE:-} && $(identity "$PYTHON_BASE") != "$now" ]]
}

make_venv() {
  local base
  base=$(base_python)
  echo "setup: making .venv with $base ($(identity "$base" | cut -d' ' -f1))"
  mkdir -p "$VENV"
  touch "$BUSY"
  # --clear would take the mark of the unfinished installation with it.
  find "$VENV" -mindepth 1 -maxdepth 1 ! -name .installing -exec rm -rf {} +
  "$base" -m venv "$VENV" || fail "$base cannot make a virtual environment (on Debian: apt-get install python3-venv)"
}

# install FILE: install a requirements file, unless it was installed in just this form.
install() {
  local stamp=$VENV/.installed-$1 sum quiet=(-qq)
  sum=$(cat "$CODE/constraints.txt" "$CODE/requirements.txt" "$CODE/$1" | sha256sum)
  [[ ! -e $stamp || $(<"$stamp") != "$sum" ]] || return 0
  echo "setup: installing $1 (several GB with CUDA; the first time takes minutes)"
  [[ ! -t 1 ]] || quiet=()
  touch "$BUSY"
  rm -f "$stamp"
  "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input "${quiet[@]}" -r "$CODE/$1" ||
    fail "pip could not install $1; the lines above say why; then run this again"
  rm "$BUSY"
  echo "$sum" >"$stamp"
}

dev=0 notebook=0 identities=0 exporting=0 bulk=0
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --notebook) notebook=1 ;;
    --identity) identities=1 ;;
    --export) exporting=1 ;;
    --bulk) bulk=1 ;;
    --dev) notebook=1 dev=1 ;;
    *) misuse "unknown argument $1" ;;
  esac
  shift
done

# One installation at a time: demo.sh and test.sh may be started together.
if command -v flock >/dev/null 2>&1; then
  exec 9<"$CODE"
  flock 9
fi
[[ -z ${PYTHON_BASE:-} ]] || base_python >/dev/null
if must_rebuild; then make_venv; fi
install requirements.txt
((notebook == 0)) || install requirements-notebook.txt
((identities == 0)) || install requirements-identity.txt
((exporting == 0)) || install requirements-export.txt
((bulk == 0)) || install requirements-bulk.txt
((dev == 0)) || install requirements-dev.txt
identity "$VENV/bin/python" >"$VENV/.interpreter"
# `python -m liveness.train` by hand, from any folder. Written each time: the repository may have been moved.
echo "$CODE/src" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/liveness.pth"
