#!/usr/bin/env bash
# The same as jupyter.sh.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/jupyter.sh" "$@"
