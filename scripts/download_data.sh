#!/usr/bin/env bash
# Download data sets of the challenge into raw/<set>/{label.csv,videos/*.mp4}.
#
#   bash scripts/download_data.sh [train|public_test|public_test_2|private_test]...     (default: all four)
#
# An interrupted download goes on where it stopped. The archive raw/<set>.zip is checked, unpacked aside and
# removed, and then the folder gets its name. A set that is there is left alone; an archive that you put at
# raw/<set>.zip yourself is used. LIVENESS_DATA_URL names a mirror (http, https or file) that has <set>.zip.
# DRY_RUN=1 prints the command.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

for name in "$@"; do
  case $name in
    -h | --help) usage; exit 0 ;;
    train | public_test | public_test_2 | private_test) ;;
    *) misuse "unknown set $name: expected train, public_test, public_test_2 or private_test" ;;
  esac
done

pick_python
run "$PY" -m liveness.download data "$@"
