#!/usr/bin/env bash
# Train one member: one recipe, one held-out fold. Continues where a stopped run ended.
#
#   bash scripts/train_member.sh RECIPE FOLD [-o KEY=VALUE ...] [--restart | --replace]
#   DATA=nuaa bash scripts/train_member.sh efficientnet_lite0 0 -o train.lr=5e-5
#
# FOLD is a number (fold0 counts as 0). --restart deletes what an earlier run of the member left, as soon as it is
# known that the new one will train; --replace does so only where it is of another recipe or data.
# Settings DATA (the set in data/; default: the recipe's), NGPU, NNODES, NODE_RANK, MASTER_ADDR,
#          GRACE_SECONDS (between SIGTERM and the kill, where a scheduler sets it), DRY_RUN=1 (print the command), PYTHON

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

for word in "$@"; do
  [[ $word != -h && $word != --help ]] || { usage; exit; }
done
[[ $# -ge 2 ]] || misuse "expected RECIPE FOLD"
recipe=$1 fold=${2#fold}
[[ $fold =~ ^[0-9]+$ ]] || misuse "FOLD is $2; expected a number, as 0"
shift 2
[[ ${1:-} != [a-zA-Z]*=* ]] || misuse "override $1 without -o; meant: bash scripts/train_member.sh $recipe $fold -o $*"

launch liveness.train -c "$recipe" --fold "$fold" ${DATA:+--data "$DATA"} "$@"
