#!/usr/bin/env bash
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_member.sh" convnext_xlarge 0 "$@"
