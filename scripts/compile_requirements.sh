#!/usr/bin/env bash
# Compile requirements*.txt from pyproject.toml, the one list of what the project needs.
#
#   bash scripts/compile_requirements.sh [--upgrade]
#
# It needs uv (pip install uv) and a network that reaches the package index. Pins that still fit are kept;
# --upgrade takes the newest versions instead. constraints.txt has the pins of torch's CUDA packages, which are
# left out of the requirements, so that a CPU build of torch installs none of them.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

upgrade=()
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  --upgrade) upgrade=(--upgrade) ;;
  ?*) misuse "unknown argument $1" ;;
esac
command -v uv >/dev/null || fail "uv is missing; install it: pip install uv"
cd "$CODE"

leave_out=()
while IFS= read -r name; do leave_out+=(--no-emit-package "$name"); done < <(sed -n 's/^\([a-z][a-z0-9-]*\)==.*/\1/p' constraints.txt)

# compile FILE EXTRAS…: the pins of the base dependencies and these extras.
compile() {
  local file=$1 extras=()
  shift
  for extra in "$@"; do extras+=(--extra "$extra"); done
  UV_CUSTOM_COMPILE_COMMAND="bash scripts/compile_requirements.sh" uv pip compile --quiet pyproject.toml "${extras[@]}" \
    --constraints constraints.txt "${leave_out[@]}" --python-version 3.11 --no-annotate --no-strip-extras \
    "${upgrade[@]}" --output-file "$file"
  # torch's CUDA packages bind where they are installed, and only there.
  sed -i '0,/^[a-z]/s/^\([a-z]\)/-c constraints.txt\n\1/' "$file"
  echo "compiled $file"
}

compile requirements.txt train
compile requirements-notebook.txt train notebook
compile requirements-identity.txt train identity
compile requirements-export.txt train export openvino
compile requirements-bulk.txt train bulk
compile requirements-runtime.txt runtime
compile requirements-serve.txt runtime serve
compile requirements-dev.txt train notebook trackers export serve dev

# apart NAME PACKAGES…: the pins of an environment of its own, .venv-NAME (scripts/setup_dvc.sh).
apart() {
  local file=requirements-$1.txt
  shift
  printf '%s\n' "$@" | UV_CUSTOM_COMPILE_COMMAND="bash scripts/compile_requirements.sh" uv pip compile --quiet - \
    --python-version 3.11 --no-annotate "${upgrade[@]}" --output-file "$file"
  echo "compiled $file"
}

apart dvc 'dvc[s3]==3.67.0'
apart s3 'awscli>=1.46' 'moto[server]>=5.2.5'
