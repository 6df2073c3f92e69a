#!/usr/bin/env bash
# The same as jupyter.sh.
[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/jupyter.sh" "$@"
