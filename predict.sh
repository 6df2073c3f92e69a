#!/usr/bin/env bash
# Score every video of a folder. The judging container starts with this.
#
#   bash predict.sh [INPUT] [OUTPUT] [--strict] [--images]
#   ENSEMBLE=demo bash predict.sh raw/demo_test result
#
# INPUT    a folder with videos in it, in videos/ or in <set>/videos/, or one video; where there is no video
#          (or with --images) still images, also in images/ (default: /data if it holds any, else data/)
# OUTPUT   gets submission.csv (fname,liveness_score) and predictions.csv (status, reason, times)
#          (default: /result if it exists or the videos are in /data, else result/); until all videos
#          are scored, the finished rows are in predictions.partial.csv, and the same command continues
# Settings ENSEMBLE (a name in configs/ensemble; default: zalo2022, or minifasnet where only that is there),
#          DATA (weights/<set>/; default: the ensemble's), NGPU (default: all GPUs), PYTHON. More: python -m liveness.predict -h
#          BACKEND (default: torch): onnx or openvino takes what liveness export has put beside the weights, on the CPU

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage; exit; }

pick_python
set -- liveness.predict ${ENSEMBLE:+--ensemble "$ENSEMBLE"} ${DATA:+--data "$DATA"} ${BACKEND:+--backend "$BACKEND"} "$@"
count=$(gpus)
[[ ${BACKEND:-torch} == torch ]] || count=0 # exported models compute on the CPU, in one process
if ((count > 1)); then
  NNODES=1 launch "$@" # on this machine, since all write into one folder
elif [[ ${DRY_RUN:-0} == 1 ]]; then
  run "$PY" -m "$@"
else
  exec "$PY" -m "$@"
fi
