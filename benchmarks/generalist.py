"""Which way of fine-tuning the day-one networks carries over to cameras that had no say, and what it does to them.

    python benchmarks/generalist.py SET... [--rows NAME ...] [--seeds 69 1 2] [--networks minifasnet_v2] [--kept FOLDER]
                                    [--out benchmarks/results/generalist.json]

SET: prepared sets (bash prepare_data.sh SET); a column camera of the label file parts a set into cameras, framing=crop
marks pictures of cut-out faces. The cameras are dealt in turn to three groups. For every group both networks are
fine-tuned on the others' cameras, calibrated and given a threshold there (by networks trained on one of the two and
asked about the other), and judged on the group's. A row is a way of
training; each is judged with several shares of the first weights left in the finished ones (WiSE-FT). Needs
weights/minifasnet (bash download_weights.sh minifasnet). --kept keeps drawn samples and scores, so that a stopped run
goes on from the last finished row; they are pictures of faces. Prints a table; --out writes all figures.
"""

import argparse
import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from liveness.base.compose import load_recipe  # noqa: E402
from liveness.base.errors import UserError, run  # noqa: E402
from liveness.base.files import write_json, write_text, written_aside  # noqa: E402
from liveness.base.tables import table_text  # noqa: E402
from liveness.evaluation.intervals import compare_eer  # noqa: E402
from liveness.evaluation.metrics import eer  # noqa: E402
from liveness.frames.quality import MEASURES  # noqa: E402
from liveness.laboratory import left_out  # noqa: E402
from liveness.laboratory.day_one import LearningPlan, blend_members, learn_decision  # noqa: E402
from liveness.members.names import weights_path  # noqa: E402
from liveness.members.weights import load_member  # noqa: E402

NETWORKS = {"minifasnet_v2": 5.0, "minifasnet_v1se": 1.0}  # and their weights in the ensemble
WINDOWS = {"fixed": (1.0, 1.0), "around": (0.815, 1.185), "tight": (0.44, 1.185)}  # times the network's own window
SHARES = (0.0, 0.25, 0.5, 0.75)  # of the first weights in the finished ones
GROUPS, DRAWS, ATTACK_DRAWS, DRAWN_BY = 3, 3, 2, 7
SEEN = ("01", "02", "12", "0", "1", "2")  # the groups that a network is trained on


@dataclass(frozen=True)
class Row:
    """A way of fine-tuning. train: overrides of the recipe. attacks: share of live samples that become attacks."""

    augment: str = "cues"
    windows: str = "around"
    balanced: bool = True
    attacks: float = 0.0
    frozen: int = 7
    train: dict[str, float | str] = field(default_factory=dict)


def _distil(weight: float) -> dict[str, float | str]:
    return {"train.task": "distil", "train.distil_weight": weight}


ROWS = {
    "naive": Row("light", "fixed", balanced=False),
    "balanced": Row("light", "fixed"),
    "cues": Row(),
    "cues_l2sp": Row(train={"train.l2_sp": 0.1}),
    "cues_distil20": Row(train=_distil(0.2)),
    "cues_distil": Row(train=_distil(0.5)),
    "cues_distil_l2sp": Row(train={**_distil(0.5), "train.l2_sp": 0.1}),
    "cues_attacks15": Row(attacks=0.15),
    "cues_attacks30": Row(attacks=0.3),
    "cues_tight": Row(windows="tight"),
}


# --- samples -----------------------------------------------------------------------------------------


class Workbench:
    """The frames of the sets, and what is kept of samples drawn from them."""

    def __init__(self, sets: list[str], kept: Path | None) -> None:
        self.frames, self.folder = left_out.gather_frames(sets), kept
        self.videos = left_out.list_videos(self.frames)
        names = list(dict.fromkeys(self.videos.domain))
        if len(names) < 2 * GROUPS:
            raise UserError(f"{', '.join(sets)}: {len(names)} cameras; expected {2 * GROUPS} at least")
        self.group = self.videos.domain.map({name: at % GROUPS for at, name in enumerate(names)}).to_numpy()
        video_of = {key: at for at, key in enumerate(zip(self.videos.set, self.videos.filename, strict=True))}
        self.video_of_frame = np.array(
            [video_of[key] for key in zip(self.frames.set, self.frames.filename, strict=True)]
        )
        self._known: dict[tuple[str, ...], left_out.Kept] = {}

    def network(self, name: str) -> torch.nn.Module:
        return copy.deepcopy(load_member(weights_path("minifasnet", name, 0))[0])

    def draw(self, name: str, augment: str, windows: str, attacks: bool = False) -> np.ndarray:
        """Images of ``draw_samples`` for all videos; of simulated attacks for the live ones."""
        low, high = WINDOWS[windows]
        scale = load_recipe(name).view.scales[0]
        changes = [f"augment={augment}", f"view.train_scales=[{low * scale:.2f},{high * scale:.2f}]"]
        recipe = load_recipe(name, [*changes, *(["augment.attack_rate=1"] if attacks else [])])
        frames = self.frames[self.frames.label == 1] if attacks else self.frames
        what, draws = ("attacks", ATTACK_DRAWS) if attacks else ("samples", DRAWS)
        return self._images(
            f"{name}_{what}_{augment}_{windows}", lambda: left_out.draw_samples(frames, recipe, draws, DRAWN_BY)[0]
        )

    def scored(self, name: str) -> np.ndarray:
        return self._images(f"{name}_scored", lambda: left_out.cut_scored(self.frames, load_recipe(name).view))

    def keep(self, name: str, what: str, frozen: int, *how: str) -> left_out.Kept:
        """What the frozen stages say: of ``scored`` frames, of ``samples`` or of ``attacks`` (windows, augment)."""
        key = (name, what, str(frozen), *how)
        if key not in self._known:
            path = self.folder / f"{'_'.join(key)}.npz" if self.folder else None
            if path and path.is_file():
                stored = np.load(path)
                self._known[key] = left_out.Kept(*(torch.from_numpy(stored[part]) for part in ("features", "logits")))
                return self._known[key]
            images = self.scored(name) if what == "scored" else self.draw(name, *how, attacks=what == "attacks")
            made = left_out.run_first(images.reshape(-1, *images.shape[2:]), self.network(name), frozen)
            if path:
                with written_aside(path) as side, open(side, "wb") as file:
                    np.savez(file, features=made.features.numpy(), logits=made.logits.numpy())
            self._known[key] = made
        return self._known[key]

    def _images(self, what: str, make) -> np.ndarray:
        path = self.folder / f"{what}.npy" if self.folder else None
        if path and path.is_file():
            return np.load(path, mmap_mode="r")
        images = make()
        if path:
            with written_aside(path) as side, open(side, "wb") as file:
                np.save(file, images)
        return images


# --- a row -------------------------------------------------------------------------------------------


def train_row(bench: Workbench, name: str, row: Row, seed: int) -> pd.DataFrame:
    """Score of each video by the network ``name``: a row per groups that it has seen, share of first weights, video.

    Trained on two groups it is judged on the third; trained on one it scores another, so that calibration and threshold
    are learnt from videos that were not trained on either.
    """
    teacher = f"minifasnet/{name}:0" if row.train.get("train.task") == "distil" else ""
    changes = {"train.epochs": 6, "train.lr": 3e-4, "train.seed": seed, "train.teacher": teacher, **row.train}
    recipe = load_recipe(name, [f"{key}={value}" for key, value in changes.items()])
    samples = bench.keep(name, "samples", row.frozen, row.augment, row.windows)
    scored, parts = bench.keep(name, "scored", row.frozen), []
    for seen in SEEN:
        network = bench.network(name)
        first = copy.deepcopy(left_out.Tail(network, row.frozen).state_dict())
        drawn = _take_groups(bench, name, row, samples, np.isin(bench.group, [int(group) for group in seen]))
        tail = left_out.train_tail(recipe, network, row.frozen, drawn)
        after = copy.deepcopy(tail.state_dict())
        for share in SHARES:
            tail.load_state_dict(left_out.mix_states(first, after, share))
            asked = ~np.isin(bench.group[bench.video_of_frame], [int(group) for group in seen])
            views = len(scored.features) // len(asked)
            scores = np.full((len(asked), views), np.nan)
            features = scored.features[torch.from_numpy(np.repeat(asked, views))]
            scores[asked] = left_out.score_kept(tail, features).reshape(-1, views)
            parts.append(_table(bench, scores, seen, share))
    return pd.concat(parts, ignore_index=True)


def score_untouched(bench: Workbench, name: str) -> pd.DataFrame:
    scores = bench.keep(name, "scored", Row().frozen).logits.double().sigmoid().numpy()
    return pd.concat([_table(bench, scores, seen, 1.0) for seen in SEEN], ignore_index=True)


def _table(bench: Workbench, scores: np.ndarray, seen: str, share: float) -> pd.DataFrame:
    """The mean over a frame's views and a video's frames; nan for videos that were not asked about."""
    per_frame, counts = scores.reshape(len(bench.frames), -1).mean(1), np.bincount(bench.video_of_frame)
    means = np.bincount(bench.video_of_frame, per_frame) / counts
    return pd.DataFrame({"seen": seen, "share": share, "video": range(len(counts)), "score": means})


def _take_groups(bench: Workbench, name: str, row: Row, samples: left_out.Kept, mine: np.ndarray) -> left_out.Drawn:
    """The samples of the videos ``mine``."""
    videos, n = bench.videos[mine], len(bench.videos)
    attacks = None
    if row.attacks:
        simulated = bench.keep(name, "attacks", row.frozen, row.augment, row.windows)
        where = np.zeros(n, int)  # a live video's place among the live ones; others are never asked for
        where[bench.videos.label == 1] = np.arange((bench.videos.label == 1).sum())
        attacks = _rows(simulated, where[mine], ATTACK_DRAWS)
    labels = np.repeat(videos.label.to_numpy()[:, None], DRAWS, 1)
    kept = _rows(samples, np.flatnonzero(mine), DRAWS)
    return left_out.Drawn(
        kept, labels, videos.domain.to_numpy(), DRAWS, attacks, ATTACK_DRAWS, row.attacks, row.balanced
    )


def _rows(kept: left_out.Kept, videos: np.ndarray, draws: int) -> left_out.Kept:
    at = torch.from_numpy((videos[:, None] * draws + np.arange(draws)).ravel())
    return left_out.Kept(kept.features[at], kept.logits[at])


# --- judging -----------------------------------------------------------------------------------------


def judge(bench: Workbench, scores: dict[str, pd.DataFrame], share: float) -> pd.DataFrame:
    """For each video its score by the networks that did not see its camera (``score``), and whether it is taken for
    live at the threshold learnt on the two other groups (``accepted``). scores: of each network."""
    plan, parts = LearningPlan({name: NETWORKS[name] for name in scores}, learnt={}, fixed=()), []
    for group in range(GROUPS):
        table = bench.videos.assign(**dict.fromkeys(MEASURES, np.nan))
        for name, rows in scores.items():
            table[name] = np.nan
            for scored in range(GROUPS):
                seen = [g for g in range(GROUPS) if g not in (group, scored)]
                by = (rows.share == share) & (rows.seen == "".join(map(str, seen)))
                mine = (bench.group == scored).nonzero()[0]
                table.loc[mine, name] = rows.score[by].to_numpy()[mine]
        here = bench.group == group
        learnt = learn_decision(table[~here], plan)
        blended = blend_members(table[here], learnt, plan.weights)
        parts.append(table[here].assign(score=blended, accepted=blended >= learnt.threshold))
    return pd.concat(parts).sort_index()


def describe(judged: pd.DataFrame, untouched: pd.DataFrame) -> dict[str, dict]:
    """Per camera: EER, APCER, BPCER and HTER at the transferred threshold, and the paired difference in EER."""
    found = {}
    for name, rows in judged.groupby("domain", sort=False):
        labels, live = rows.label.to_numpy(), (rows.label == 1).to_numpy()
        apcer, bpcer = float(rows.accepted[~live].mean()), float(1 - rows.accepted[live].mean())
        value = eer(labels, rows.score.to_numpy()).value
        paired = compare_eer(labels, untouched.loc[rows.index, "score"].to_numpy(), rows.score.to_numpy())
        found[str(name)] = {
            "crop": bool(rows.crop.any()), "live": int(live.sum()), "attacks": int((~live).sum()), "eer": value,
            "apcer": apcer, "bpcer": bpcer, "hter": (apcer + bpcer) / 2,
            "eer_less_untouched": [paired.difference, *paired.interval.as_list()],
        }  # fmt: skip
    return found


def summarise(figures: dict[str, dict]) -> dict[str, float]:
    """Median and worst camera, those with whole frames apart."""
    found = {}
    for what, rows in (
        ("all", list(figures.values())),
        ("whole", [one for one in figures.values() if not one["crop"]]),
    ):
        for key in ("eer", "hter"):
            values = [one[key] for one in rows]
            found |= {f"{key}_median_{what}": float(np.median(values)), f"{key}_worst_{what}": max(values)}
    worse = [name for name, one in figures.items() if one["eer_less_untouched"][1] > 0]
    return found | {"worse_than_untouched": worse}  # type: ignore[dict-item]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sets", metavar="SET", nargs="+")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[69])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    bench = Workbench(args.sets, args.kept)
    views = [args.networks[:1], *([args.networks] if len(args.networks) > 1 else [])]
    first = {name: score_untouched(bench, name) for name in args.networks}
    plain = ["+".join(view) for view in views], [judge(bench, {n: first[n] for n in view}, 1.0) for view in views]
    found: dict = {"sets": args.sets, "groups": _list_groups(bench), "rows": []}
    for view, judged in zip(*plain, strict=True):
        _add(found, ("untouched", 0, view, 1.0), judged, judged)
    for seed in args.seeds:
        for row in args.rows:
            scores = {name: _scores_of(bench, name, row, seed, args.kept) for name in args.networks}
            for names, view, untouched in zip(views, *plain, strict=True):
                for share in SHARES:
                    judged = judge(bench, {n: scores[n] for n in names}, share)
                    _add(found, (row, seed, view, share), judged, untouched)
            print("\n".join(render(found)[-len(SHARES) * len(views) :]), flush=True)
            if args.out:
                write_json(args.out, found)
    print("\n".join(render(found)))
    return 0


def _scores_of(bench: Workbench, name: str, row: str, seed: int, kept: Path | None) -> pd.DataFrame:
    path = kept / f"{name}_scores_{row}_{seed}.csv" if kept else None
    if path and path.is_file():
        return pd.read_csv(path, dtype={"seen": str})
    scores = train_row(bench, name, ROWS[row], seed)
    if path:
        write_text(path, table_text(scores))
    return scores


def _list_groups(bench: Workbench) -> list[list[str]]:
    return [list(dict.fromkeys(bench.videos.domain[bench.group == group])) for group in range(GROUPS)]


def _add(found: dict, about: tuple[str, int, str, float], judged: pd.DataFrame, plain: pd.DataFrame) -> None:
    figures = describe(judged, plain)
    about = dict(zip(("row", "seed", "networks", "keep_init"), about, strict=True))
    found["rows"].append(about | {"summary": summarise(figures), "cameras": figures})


def render(found: dict) -> list[str]:
    """A line per row, share and networks: EER (HTER) of each camera in percent."""
    names = [name for group in found["groups"] for name in group]
    lines = [
        f"{'row':<24} seed networks keep  EER median worst  HTER median worst  " + " ".join(f"{n:>9}" for n in names)
    ]
    for one in found["rows"]:
        s, cells = (
            one["summary"],
            [f"{100 * c['eer']:.1f}/{100 * c['hter']:.1f}" for c in (one["cameras"][n] for n in names)],
        )
        four = [100 * s[key] for key in ("eer_median_all", "eer_worst_whole", "hter_median_all", "hter_worst_whole")]
        lines.append(
            f"{one['row']:<24} {one['seed']:>4} {one['networks'][-8:]:>8} {one['keep_init']:>4} "
            + " ".join(f"{v:>6.1f}" for v in four) + "  " + " ".join(f"{c:>9}" for c in cells)
            + "  worse: " + ",".join(s["worse_than_untouched"])
        )  # fmt: skip
    return lines


if __name__ == "__main__":
    run(main)
