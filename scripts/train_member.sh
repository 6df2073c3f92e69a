#!/usr/bin/env bash
# Train one member: one recipe, one held-out fold. Continues where a stopped run ended.
#
#   bash scripts/train_member.sh RECIPE FOLD [-o KEY=VALUE ...] [--restart]
#   DATA=nuaa bash scripts/train_member.sh efficientnet_lite0 0 -o train.lr=5e-5
#
# Settings DATA (the set in data/; default: the recipe's), NGPU, NNODES, NODE_RANK, MASTER_ADDR,
#          DRY_RUN=1 (print the command), PYTHON

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

for word in "$@"; do
  [[ $word != -h && $word != --help ]] || { usage; exit; }
done
[[ $# -ge 2 ]] || misuse "expected RECIPE FOLD"
recipe=$1 fold=$2
shift 2

launch liveness.train -c "$recipe" --fold "$fold" ${DATA:+--data "$DATA"} "$@"
