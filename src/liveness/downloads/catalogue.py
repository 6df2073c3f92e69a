"""The list of what can be fetched: names, addresses, published digests, and where each file comes to lie.

LIVENESS_WEIGHTS_URL and LIVENESS_DATA_URL name mirrors (http, https or file) laid out like weights/ and raw/;
LIVENESS_DRIVE_URL replaces the address of Google Drive's downloads. Nothing is read or written here.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from liveness.base.files import workspace
from liveness.members.published import ORIGINALS

PRETRAINED_URL = "https://dl.fbaipublicfiles.com/convnext"
DATA_URL = "https://dl-challenge.zalo.ai/liveness-detection"
DRIVE_URL = "https://drive.usercontent.google.com/download"

# Minivision's repository as it stood when the digests in members/published.py were taken.
MINIFASNET_URL = (
    "https://raw.githubusercontent.com/minivision-ai/Silent-Face-Anti-Spoofing/"
    "b6d5f04ad78778917853b25c778acef6d5626d15/resources/anti_spoof_models"
)

PRETRAINED = ("convnext_xlarge_22k_1k_224_ema.pth", "convnext_large_22k_1k_224.pth")
SETS = ("train", "public_test", "public_test_2", "private_test")
# The 1st place's trained members on Google Drive.
PUBLISHED = {
    "convnext_large_fold0": "1_JlsQ3CHHCiO5LkCIgaPG-osyZ5CpRTf",
    "convnext_large_fold1": "1Dwe7l8ArkkU4aOk5dx_KsxdoX6pIdqbM",
    "convnext_large_fold2": "1wxNMCNIxBt8SewQESD-nzkdGxzumR0Zt",
    "convnext_xlarge_fold0": "1qAPsdf92LPQyvCke15PXDZ22pnAjqxie",
    "convnext_xlarge_fold1": "1fdq2ZQCnWqZ0IUOCpFg3PlrXNm2lu7Ht",
    "convnext_xlarge_fold2": "1ATvs-3Zxu5oUgwSQGCezOk9K74VVLsbY",
    "convnext_xlarge_fold3": "1_K_YPfDqQlg5xR7VRfIXPF6TuwtB6zzP",
    "convnext_xlarge_fold4": "1Df5IoAcCLuPJc7FSxMCZvy_JFLcsRbPM",
}
# SHA-256 of files that are known here, by the name used in digests.json. Of every other file the digest is the one of
# the first download.
PUBLISHED_DIGESTS = {f"minifasnet/{original.name}": original.sha256 for original in ORIGINALS.values()}
# What the verb takes: kind -> names.
CATALOGUE = {"weights": ("pretrained", "zalo2022_published", "minifasnet"), "data": SETS}


@dataclass(frozen=True)
class DownloadItem:
    """One file to fetch."""

    key: str  # its path below its base folder (weights/ or raw/), and its name in digests.json
    base: Path
    url: str
    by_hand: str  # an address for a person's browser

    @property
    def target(self) -> Path:
        return self.base / self.key

    @property
    def advice(self) -> str:
        return f"by hand: save {self.by_hand} as {self.target}, then run this again"


def list_weight_items(name: str) -> list[DownloadItem]:
    """The files of ``pretrained``, ``zalo2022_published`` or ``minifasnet``, from their source or the mirror."""
    base, mirror = workspace() / "weights", os.environ.get("LIVENESS_WEIGHTS_URL", "").rstrip("/")
    items = []
    if name == "pretrained":
        for key in PRETRAINED:
            url = f"{mirror or PRETRAINED_URL}/{key}"
            items.append(DownloadItem(key, base, url, url))
        return items
    if name == "minifasnet":
        for original in ORIGINALS.values():
            url = f"{f'{mirror}/minifasnet' if mirror else MINIFASNET_URL}/{original.name}"
            items.append(DownloadItem(f"minifasnet/{original.name}", base, url, url))
        return items
    drive = os.environ.get("LIVENESS_DRIVE_URL") or DRIVE_URL
    for member, drive_id in PUBLISHED.items():
        key = f"zalo2022_published/original/{member}.pth"
        url = f"{mirror}/{key}" if mirror else f"{drive}?id={drive_id}&export=download"
        items.append(
            DownloadItem(key, base, url, url if mirror else f"https://drive.google.com/file/d/{drive_id}/view")
        )
    return items


def make_set_item(name: str) -> DownloadItem:
    """A set's archive."""
    url = (os.environ.get("LIVENESS_DATA_URL") or DATA_URL).rstrip("/")
    return DownloadItem(f"{name}.zip", workspace() / "raw", f"{url}/{name}.zip", f"{url}/{name}.zip")
