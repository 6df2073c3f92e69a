#!/usr/bin/env bash
[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_member.sh" convnext_large 1 "$@"
