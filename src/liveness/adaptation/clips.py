"""The labelled clips of one camera, as prediction cuts them, and what each network makes of them once and for all.

    clips = read_clips("mine", start)
    seen = see_clips(start, clips)

Every clip is there twice: as it is, and *relit*, its brightness and contrast moved to those of another clip, whatever
the other's label. Relit clips train with the others, so that light teaches nothing, and judge whether it
was learnt. Where the live clips have lost more highlights at white than the attacks, every relit clip loses as many.
Reads data/<set>/{labels_video,folds,duplicates}.csv and the raw videos; writes nothing.
"""

import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from liveness.adaptation.start import Network, StartEnsemble
from liveness.base.errors import UserError
from liveness.base.files import plain_name, show_path, workspace
from liveness.base.names import few, find_column
from liveness.base.tables import read_table
from liveness.evaluation import metrics
from liveness.evaluation.cameras import CUE_AUC
from liveness.evaluation.combine import frames_to_video, logit
from liveness.frames.contract import to_tensor
from liveness.frames.quality import MEASURES
from liveness.models.device import one_thread, share_of_cores
from liveness.models.score import average_views
from liveness.prediction.engine import decode_ahead
from liveness.prediction.rows import SCORED
from liveness.sets.labelled import raw_videos, read_labelled

LEAST = 5  # clips
_BATCH = 32  # views at a time
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WHITE = 252  # a value from here on has lost its highlights
_MOST_LOST = 0.95  # of the clips have lost less


@dataclass(frozen=True)
class Clips:
    """Labelled clips with a face, and their views. ``views``: network -> per clip uint8 (views x H x W x 3), those of a
    frame one after the other; ``frames``: network -> per clip how many; ``measures``: columns MEASURES."""

    names: list[str]
    labels: np.ndarray  # 1 live, 0 attack
    groups: np.ndarray
    species: np.ndarray
    cameras: np.ndarray  # "" where none is named
    measures: pd.DataFrame
    views: dict[str, list[np.ndarray]]
    frames: dict[str, list[int]]
    without: tuple[str, ...] = ()  # labelled clips in which some network has no face to look at

    def take(self, rows: np.ndarray) -> "Clips":
        """Some of them, by number."""
        rows = np.asarray(rows)
        return Clips(
            [self.names[row] for row in rows], self.labels[rows], self.groups[rows], self.species[rows],
            self.cameras[rows],
            self.measures.iloc[rows].reset_index(drop=True),
            {name: [parts[row] for row in rows] for name, parts in self.views.items()},
            {name: [counts[row] for row in rows] for name, counts in self.frames.items()}, self.without,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.names)


def draw_clips(clips: Clips, count: int, seed: int = 0) -> np.ndarray:
    """The numbers of ``count`` clips, half live and half attack (as far as there are so many), drawn at random."""
    rng = np.random.default_rng(seed)
    halves = [rng.permutation(np.flatnonzero(clips.labels == label)) for label in (1, 0)]
    live = min(len(halves[0]), max(count // 2, count - len(halves[1])))
    return np.sort(np.concatenate([halves[0][:live], halves[1][: count - live]]))


# --- reading ---------------------------------------------------------------------------------------


def read_clips(
    name: str, start: StartEnsemble, camera: str | None = "", workers: int = 0, trust: bool = False
) -> Clips:
    """The labelled clips of data/<name>, of one camera where the set names several, cut for the start's networks.

    camera: which one; None takes those of all cameras. trust: labels may contradict near-duplicates.

    A UserError where the set is not prepared, labels are of one class or contradict near-duplicates, there are several
    cameras and none was asked for, or fewer than LEAST clips have a face.
    """
    folder = workspace() / "data" / plain_name(name, "SET")
    table = _of_camera(read_labelled(folder)[0], folder, camera)
    if not trust:
        _require_consistent(folder, table)
    _require_enough(table["label"].to_numpy(), name, camera)
    paths = raw_videos(folder, table["filename"].tolist())
    wanted = list({n.member.wanted.key: n.member.wanted for n in start.networks}.values())
    found = {video.path.name: video for video in decode_ahead(paths, wanted, workers)}
    keys = {network.name: network.member.wanted.key for network in start.networks}
    good = [
        n for n in table["filename"] if found[n].status in SCORED and all(k in found[n].views for k in keys.values())
    ]
    lacking = tuple(n for n in table["filename"] if n not in set(good))
    table = table.set_index("filename").loc[good]
    _require_enough(table["label"].to_numpy(), name, camera, f"; {len(lacking)} more have no face in view")
    measures = [found[n].measures or dict.fromkeys(MEASURES, np.nan) for n in good]
    return Clips(
        good, table["label"].to_numpy(int), table["group"].to_numpy(str), table["species"].to_numpy(str),
        table["camera"].to_numpy(str),
        pd.DataFrame(measures, columns=list(MEASURES)),
        {network: [found[n].views[key] for n in good] for network, key in keys.items()},
        {network: [len(found[n].frames_of[key]) for n in good] for network, key in keys.items()}, lacking,
    )  # fmt: skip


def _of_camera(table: pd.DataFrame, folder: Path, camera: str | None) -> pd.DataFrame:
    """The rows of one camera, with a column ``camera``; all where the set names none or a single one."""
    videos = read_table(folder / "labels_video.csv", ["filename"])
    column = find_column(list(videos.columns), "camera")
    if column is None:
        if camera:
            raise UserError(f"--camera {camera}: {show_path(folder / 'labels_video.csv')} has no column camera")
        return table.assign(camera="")
    of = videos.set_index("filename")[column].reindex(table["filename"]).fillna("").to_numpy()
    table, known = table.assign(camera=of), sorted(set(of) - {""})
    if camera == "" and len(known) > 1:
        raise UserError(f"{folder.name}: its clips are of {len(known)} cameras; name one: --camera {known[0]}")
    if camera and camera not in known:
        raise UserError(f"--camera {camera}: {folder.name} has the cameras {few(known)}")
    return table[of == camera].reset_index(drop=True) if camera else table


def _require_consistent(folder: Path, table: pd.DataFrame) -> None:
    path = folder / "duplicates.csv"
    if not path.is_file():
        return
    pairs, label = read_table(path, ["filename", "other"]), dict(zip(table["filename"], table["label"], strict=True))
    against = [
        (one, other)
        for one, other in zip(pairs["filename"], pairs["other"], strict=True)
        if label.get(one, -1) != label.get(other, -1) and one in label and other in label
    ]
    if against:
        one, other = against[0]
        raise UserError(
            f"{folder.name}: {one} is labelled {'live' if label[one] else 'attack'} and its near-duplicate {other} "
            f"{'live' if label[other] else 'attack'} ({len(against)} such pairs, {show_path(path)}); correct them and "
            "prepare the set again, or, where an attack replays that very recording: --trust-labels"
        )


def _require_enough(labels: np.ndarray, name: str, camera: str | None, more: str = "") -> None:
    what = f"{name}{f', camera {camera}' if camera else ''}"
    more = "" if more.startswith("; 0 ") else more
    if len(labels) < LEAST:
        raise UserError(f"{what}: {len(labels)} labelled clips with a face{more}; expected {LEAST} at least, better 20")
    if len(set(labels)) < 2:
        kind, other = ("live", "attacks") if labels[0] else ("attacks", "live clips")
        raise UserError(f"{what}: all {len(labels)} clips are {kind}{more}; expected {other} too, better as many")


# --- what the networks see -------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """What one network's unchanging part makes of all views of all clips. ``inner``: views x ..., float32; per view:
    ``clip`` (its number) and ``relit`` (whether its brightness was moved)."""

    inner: torch.Tensor
    clip: np.ndarray
    relit: np.ndarray
    frames: tuple[int, ...]  # per clip
    combine: str

    def rows_of(self, clips: np.ndarray) -> np.ndarray:
        """The views of some clips."""
        return np.flatnonzero(np.isin(self.clip, clips))

    def to_clips(self, scores: np.ndarray, rows: np.ndarray, clips: np.ndarray) -> np.ndarray:
        """Log-odds of each clip (clips x 2: as it is, relit) from the scores of its views; scores: of ``rows``."""
        found = np.empty((len(clips), 2))
        for place, clip in enumerate(clips):
            for relit in (0, 1):
                mine = scores[(self.clip[rows] == clip) & (self.relit[rows] == bool(relit))]
                if not len(mine):
                    found[place, 1] = found[place, 0]
                    continue
                found[place, relit] = frames_to_video(average_views(mine, self.frames[clip]), self.combine)
        return logit(found)


@dataclass(frozen=True)
class SeenClips:
    """The clips without their pixels: all that candidates are fitted and judged on. ``of``: network -> Seen."""

    names: list[str]
    labels: np.ndarray
    groups: np.ndarray
    of: dict[str, Seen]

    def __len__(self) -> int:
        return len(self.names)


def see_clips(start: StartEnsemble, clips: Clips, relit: bool = True) -> SeenClips:
    """One forward pass of every network's unchanging part over all views, as they are and relit.

    relit: False leaves these out, where nothing is to be learnt; they then count as equal to the others."""
    targets = _draw_light(clips)
    lost = share_lost_highlights(clips) if relit else np.zeros(3)

    def see(network: Network) -> Seen:
        inner, clip, moves = [], [], []
        for number, views in enumerate(clips.views[network.name]):
            for moved in (False, True)[: 1 + relit]:
                pixels = relight(views, targets[number], lost) if moved else views
                inner.append(_run_early(network, pixels))
                clip += [number] * len(pixels)
                moves += [moved] * len(pixels)
        frames = tuple(clips.frames[network.name])
        return Seen(torch.cat(inner), np.array(clip), np.array(moves), frames, network.member.combine)

    with ThreadPoolExecutor(share_of_cores()) as pool:
        found = dict(zip([n.name for n in start.networks], pool.map(see, start.networks), strict=True))
    return SeenClips(clips.names, clips.labels, clips.groups, found)


def _run_early(network: Network, views: np.ndarray) -> torch.Tensor:
    with one_thread(), torch.no_grad():
        batch = torch.stack([to_tensor(view, network.member.wanted.view) for view in views])
        return torch.cat([network.early(part).clone() for part in batch.split(_BATCH)])


def _draw_light(clips: Clips) -> list[tuple[float, float]]:
    """For every clip the light (``measure_light``) of another one, of either class, drawn by its name."""
    lights = [measure_light(views) for views in next(iter(clips.views.values()))]
    return [lights[np.random.default_rng(zlib.crc32(name.encode())).integers(len(lights))] for name in clips.names]


def measure_light(views: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the luma of uint8 views."""
    luma = views.astype(np.float32) @ _LUMA
    return float(luma.mean()), float(luma.std())


def share_lost_highlights(clips: Clips) -> np.ndarray:
    """The share of its values that each channel of a relit clip loses at the top, (3,), 0 to 1.

    It is that of the clips which lost most, where lost highlights alone tell live clips from attacks (``CUE_AUC``, as
    the page tells of a cue): no change of light brings them back, so the others have to lose them too. It is 0 where
    attacks have lost more than live clips: that is a trace of screens and of lamps on paper.
    """
    shares = np.stack([(views >= _WHITE).mean((0, 1, 2)) for views in next(iter(clips.views.values()))])
    if len(set(clips.labels)) < 2 or metrics.auc(clips.labels, shares.mean(1)) < CUE_AUC:
        return np.zeros(3)
    return np.quantile(shares, _MOST_LOST, axis=0)


def relight(views: np.ndarray, light: tuple[float, float], lost: np.ndarray | None = None) -> np.ndarray:
    """uint8 views whose luma is moved to another mean and deviation, as another exposure would: what is beyond black
    and white is lost. lost: so large a share of each channel's values is lost at the top beforehand."""
    if lost is not None and lost.any():
        tops = [np.quantile(views[..., channel], 1 - share) for channel, share in enumerate(lost)]
        views = np.minimum(views, np.array(tops).astype(np.uint8))
    (mean, spread), (goal, width) = measure_light(views), light
    levels = (np.arange(256) - mean) * min(width / max(spread, 1.0), 4.0) + goal
    return (levels + 0.5).clip(0, 255).astype(np.uint8)[views]
