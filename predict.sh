#!/usr/bin/env bash
# Score every video of a folder: the judging container's entry point.
#
#   bash predict.sh [INPUT] [OUTPUT] [--strict]
#   ENSEMBLE=demo bash predict.sh raw/demo_test result
#
# INPUT    a folder with videos in it, in videos/ or in <set>/videos/
#          (default: /data if it holds videos, else the workspace's data/)
# OUTPUT   gets submission.csv (fname,liveness_score) and predictions.csv (status, reason, times)
#          (default: /result if it exists, else result/)
# Settings ENSEMBLE (a name in configs/ensemble; default zalo2022), DATA (weights/<set>/; default:
#          the ensemble's), PYTHON

# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

[[ ${1:-} != -h && ${1:-} != --help ]] || { usage; exit; }

pick_python
exec "$PY" -m liveness.predict --ensemble "${ENSEMBLE:-zalo2022}" ${DATA:+--data "$DATA"} "$@"
