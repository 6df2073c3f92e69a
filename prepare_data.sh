#!/usr/bin/env bash
# Prepare a set: frames, faces, tables, folds and a page about them, of raw/SET into data/SET.
#
#   bash prepare_data.sh [SET] [-o KEY=VALUE ...] [--strict] [--renew]
#   bash prepare_data.sh                      # the set "train"
#   bash prepare_data.sh nuaa -o frames.plan=even frames.count=8
#   SHARD=2/4 bash prepare_data.sh nuaa       # the second quarter of the videos; then once without SHARD
#
# SET is in raw/SET/{label.csv,videos/*.mp4}, or in raw/SET/{live,spoof}/*.mp4 without a label file;
# "train" may also be in raw/label.csv + train_video/*.mp4; else SET is in data/SET/{labels.csv,videos/}.
# Without a label file and without these two folders it is a set without labels. SET may be given as
# raw/SET. Only what is missing is done, so you can run it again at any time.
#
# -o       changes configs/data/SET.yaml (or default.yaml)
# --strict a video of which no frame can be read is an error, not a marked row (a video that breaks off has
#          frames, so it stays a warning)
# --renew  prepare by the newest preprocessing contract a set that was prepared by an earlier one (its
#          members must then be trained again)
# Settings PYTHON (interpreter), LIVENESS_ROOT (workspace), SHARD (i/n). More: docs/preparation.md

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

set_name=train options=() strict=() renew=() named='' given=("$@")
while (($#)); do
  case $1 in
    -h | --help) usage; exit 0 ;;
    -o)
      shift
      [[ ${1:-} == *=* ]] || misuse "-o needs KEY=VALUE"
      options+=(-o)
      while [[ ${1:-} == *=* ]]; do options+=("$1"); shift; done
      ;;
    --strict) strict=(--strict); shift ;;
    --renew) renew=(--renew); shift ;;
    -*) misuse "unknown option $1" ;;
    [a-z]*=*)
      printf -v right '%q ' "${given[@]:0:${#given[@]}-$#}" -o "$@"
      misuse "$1 needs -o before it: bash prepare_data.sh ${right% }"
      ;;
    *)
      [[ -z $named ]] || misuse "one SET at a time, not both $set_name and $1"
      set_name=$1 named=1
      shift
      ;;
  esac
done

pick_python
run "$PY" -m liveness.prepare "$set_name" "${options[@]}" "${strict[@]}" "${renew[@]}"
[[ -z ${SHARD:-} ]] || exit 0 # the run without SHARD goes on from here
run "$PY" -m liveness.make_folds "$set_name" "${options[@]}"
run "$PY" -m liveness.sanity_check "$set_name"
run "$PY" -m liveness.dataset_page "$set_name"
