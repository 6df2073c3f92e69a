#!/usr/bin/env bash
# Download weights into weights/, each file checked before it gets its name.
#
#   bash download_weights.sh [pretrained|zalo2022_published|minifasnet]...   (default: the first two)
#
#   minifasnet           two small networks of minivision-ai (Apache-2.0, 4 MB) that score your own videos without any
#                        training, converted to weights/minifasnet/*.safetensors (bash predict.sh my_videos)
#   pretrained           the two ImageNet ConvNeXt files that training of the ensemble zalo2022 starts from
#   zalo2022_published   the eight trained members that the 1st place published, converted to
#                        weights/zalo2022_published/*.safetensors (ENSEMBLE=zalo2022_published bash predict.sh)
#
# An interrupted download goes on where it stopped; files that are there are checked and kept.
# weights/digests.json records the digest of each first download. LIVENESS_WEIGHTS_URL names a mirror
# (http, https or file) that is laid out like weights/. DRY_RUN=1 prints the commands.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/scripts/common.sh"

(($#)) || set -- pretrained zalo2022_published
for part in "$@"; do
  case $part in
    -h | --help) usage; exit 0 ;;
    pretrained | zalo2022_published | minifasnet) ;;
    *) misuse "unknown weights $part: expected pretrained, zalo2022_published or minifasnet" ;;
  esac
done

pick_python
for part in "$@"; do
  run "$PY" -m liveness.download weights "$part"
  [[ $part == pretrained ]] || run "$PY" -m liveness.convert "$part"
done
