"""Turn published checkpoints into members of this project.

    python -m liveness.convert zalo2022_published
    python -m liveness.convert minifasnet

Reads   configs/ensemble/<name>.yaml and, for each of its members,
        weights/<set>/original/<model name>_fold<k>.pth (two classes in Meta's key names, index 1 = live), or
        weights/minifasnet/*.pth under their authors' names (three classes, index 1 = live)
Writes  weights/<set>/<recipe>_fold<k>.safetensors: timm's names, one logit, and the preprocessing
        that its recipe describes. A member of the same original (by its digest) and recipe is left alone.
        Beside those of minifasnet comes NOTICE.txt, their licence.
"""

import argparse

from liveness.base.errors import run
from liveness.members.published import convert_ensemble


def main(argv: list[str] | None = None) -> int:
    for path, made in convert_ensemble(parse(argv).ensemble):
        print(path if made else f"{path}: already converted")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.convert", description="Convert published checkpoints.")
    parser.add_argument("ensemble", help="a name in configs/ensemble whose originals were downloaded")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
