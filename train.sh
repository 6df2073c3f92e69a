#!/usr/bin/env bash
# Train every member of an ensemble, then evaluate it out of fold and write the report. Finished members are
# skipped. Before the first one starts, all are checked: folds, models, pretrained files, options, room on the disk.
#
#   bash train.sh [ENSEMBLE] [-o KEY=VALUE ...] [--restart]        default: zalo2022
#   DATA=mine bash train.sh efficientnet_lite0
#   PARALLEL=members bash train.sh                 each GPU trains a member of its own, with a log for each
#
# Reads    configs/ensemble/ENSEMBLE.yaml, data/<set>/ (prepare_data.sh), weights/<pretrained>
# Writes   runs/<set>/, weights/<set>/<recipe>_fold<k>.safetensors, weights/<set>/ENSEMBLE.json,
#          result/report_<set>_ENSEMBLE.{html,json}, and the same as result/report.{html,json}
# Settings DATA (the set; default: the ensemble's), PARALLEL=members, SLOTS (how many of them at once; default: one
#          for each GPU), NGPU, NNODES, NODE_RANK, MASTER_ADDR,
#          GRACE_SECONDS (between SIGTERM and the kill, where a scheduler sets it), DRY_RUN=1 (print the commands), PYTHON

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"
# shellcheck source=scripts/spread.sh
source "$CODE/scripts/spread.sh"

ensemble=zalo2022
case ${1:-} in
  -h | --help) usage; exit ;;
  -o | --restart) ;;
  *=*) misuse "override $1 without -o; meant: bash train.sh [ENSEMBLE] -o $*" ;;
  -*) misuse "unknown option $1" ;;
  ?*) ensemble=$1; shift ;;
esac
[[ ${1:-} != *=* ]] || misuse "override $1 without -o; meant: bash train.sh $ensemble -o $*"
[[ $# == 0 || $1 == -o || $1 == --restart ]] || misuse "unexpected argument $1"

case ${PARALLEL:-} in
  '') ;;
  members) [[ ${NNODES:-1} == 1 ]] || misuse "PARALLEL=members is for one machine; over several, see docs/training.md" ;;
  *) misuse "PARALLEL=$PARALLEL: expected members, or nothing" ;;
esac

pick_python
check=(--check)
[[ ${DRY_RUN:-0} != 1 ]] || check=()
members=$("$PY" -m liveness.members "$ensemble" ${DATA:+--data "$DATA"} "${check[@]}" "$@")
if [[ ${PARALLEL:-} == members && ${DRY_RUN:-0} != 1 ]]; then
  spread "$members" "$ROOT/runs/$(awk 'NR == 1 { print $3 }' <<<"$members")/$ensemble/logs" "$@"
else
  while read -r recipe fold data <&3; do
    DATA=$data forward bash "$CODE/scripts/train_member.sh" "$recipe" "$fold" "$@"
  done 3<<<"$members"
fi

# NODE_RANK alone may come from another launcher; it counts only if NNODES says that there are several nodes.
if [[ ${NNODES:-1} == 1 || ${NODE_RANK:-0} == 0 ]] && [[ ${DRY_RUN:-0} != 1 ]]; then
  "$PY" -m liveness.evaluate "$ensemble" ${DATA:+--data "$DATA"}
  "$PY" -m liveness.report "$ensemble" ${DATA:+--data "$DATA"}
fi
