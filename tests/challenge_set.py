"""What the challenge's server would have, in small: archives of short selfie clips, pretrained and trained weights.

    python tests/challenge_set.py FOLDER

Writes FOLDER/{train,public_test}.zip (<set>/label.csv, <set>/videos/*.mp4; most of the drawn persons wear a
medical mask; the test set has no labels) and FOLDER/weights/ (narrow ConvNeXts in the published form and place).
"""

import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import timm
import torch
from test_model import meta_names

from liveness.demo.clips import Take, draw_person
from liveness.demo.portrait import Portrait
from liveness.downloads.catalogue import PRETRAINED, PUBLISHED
from liveness.simulation.attacks import ATTACKS

SIZE, FRAMES, FPS = (320, 240), 12, 6  # height and width; two seconds
TRAIN, TEST, PERSONS = 20, 3, 10
DEPTHS, WIDTHS = [1, 1, 1, 1], [8, 16, 16, 16]


def write_clip(path: Path, number: int, live: bool) -> None:
    """A person of the demo set before a camera, or the print of one."""
    rng = np.random.default_rng([3, number])
    person = draw_person(number // 2 % PERSONS, seed=0)
    take = Take(Portrait(person, rng, masked=number % 3 > 0), SIZE, rng)
    attack = None if live else ATTACKS["print"].draw(rng)
    sheet = attack.surface(take.frame(0.0)) if attack else None
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for k in range(FRAMES):
            picture = attack.capture(sheet, k / FPS, rng) if attack else take.frame(k / FPS)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_archives(folder: Path) -> None:
    labels = ["fname,liveness_score"]
    for number in range(TRAIN):
        write_clip(folder / "train" / "videos" / f"{number}.mp4", number, live=number % 2 == 1)
        labels.append(f"{number}.mp4,{number % 2}")
    (folder / "train" / "label.csv").write_text("\n".join(labels) + "\n")
    for number in range(TEST):
        write_clip(folder / "public_test" / "videos" / f"{number}.mp4", 100 + number, live=number != 1)
    for name in ("train", "public_test"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for path in sorted((folder / name).rglob("*")):
                archive.write(path, path.relative_to(folder))


def write_checkpoint(path: Path, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = timm.create_model("convnext_tiny", num_classes=classes, depths=DEPTHS, dims=WIDTHS)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": meta_names(model.state_dict())}, path)


def main() -> None:
    folder = Path(sys.argv[1])
    write_archives(folder)
    for seed, name in enumerate(PRETRAINED):
        write_checkpoint(folder / "weights" / name, 1000, seed)
    for seed, member in enumerate(PUBLISHED):
        write_checkpoint(folder / "weights" / "zalo2022_published" / "original" / f"{member}.pth", 2, 10 + seed)


if __name__ == "__main__":
    main()
