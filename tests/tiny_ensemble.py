"""A small trained ensemble of the challenge's shape, for tests of prediction where training is not the matter.

    LIVENESS_ROOT=FOLDER python tests/tiny_ensemble.py

Draws and prepares the set "train" (tiny_set.py), trains the eight members of zalo2022 with narrow models in one
process, writes the ensemble's operating points and clips/ with new videos. Nothing is done twice.
"""

import subprocess
import sys

import tiny_set

from liveness import evaluate, train
from liveness.base.compose import load_ensemble
from liveness.base.files import CODE, workspace

NARROW = ["model.kwargs.depths=[1,1,1,1]", "model.kwargs.dims=[8,16,16,16]", "model.pretrained=", "model.drop_path=0"]
SHORT = ["view.size=32", "train.epochs=1", "train.batch=8", "train.workers=0", "train.lr=3e-2", "augment=none"]
CLIPS = ("1", "2", "10")


def main() -> None:
    root = workspace()
    if not (root / "data" / "train" / "folds.csv").is_file():
        tiny_set.write_set(root / "raw" / "train")
        subprocess.run(["bash", str(CODE / "prepare_data.sh"), "train"], check=True)
    for member in load_ensemble("zalo2022").members:
        if (root / "weights" / "train" / f"{member.recipe}_fold{member.fold}.safetensors").is_file():
            continue
        sys.argv = ["train", "-c", member.recipe, "--fold", str(member.fold), "-o", *NARROW, *SHORT]
        train.main()
    evaluate.main(["zalo2022"])
    (root / "clips").mkdir(exist_ok=True)
    for number, name in enumerate(CLIPS):
        tiny_set.write_clip(root / "clips" / f"{name}.mp4", live=number % 2, seed=100 + number, frames=12)


if __name__ == "__main__":
    main()
