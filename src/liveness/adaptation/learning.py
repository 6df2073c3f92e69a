"""How a network learns from a few clips: its classifier alone, from the old or from nothing, or its last stage.

    network = fit_classifier(network, seen, labels, rows, plan)          a linear probe, held to the old classifier
    network, offset = fit_at_home(network, seen, labels, rows, plan)     a classifier of its own, from nothing
    network = fine_tune(network, seen, labels, rows, plan)

Nothing here is random beyond the plan's seed, and each fit computes on one thread, so that two runs give equal bytes.
Clips of a class count alike, and so do the classes. Reads and writes nothing.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from liveness.adaptation.clips import Seen
from liveness.adaptation.start import Network
from liveness.base.experiments import AdaptPlan
from liveness.models.device import one_thread
from liveness.models.distillation import distil_logits
from liveness.models.taps import find_classifier, take_tapped, tap_classifier

_BATCH = 256  # views whose features or scores are computed at once
_ROUNDS = 60  # of L-BFGS: the problems are convex and small


def score_views(network: Network, inner: torch.Tensor) -> np.ndarray:
    """Probabilities of live (views,), float64, of what ``Seen.inner`` holds."""
    with one_thread(), torch.no_grad():
        parts = [_to_logits(network.model, part) for part in inner.split(_BATCH)]
    return torch.sigmoid(torch.cat(parts).double()).numpy()


def score_clips(network: Network, seen: Seen, clips: np.ndarray) -> np.ndarray:
    """Calibrated log-odds of clips (clips x 2: as they are, relit)."""
    rows = seen.rows_of(clips)
    return network.slope * seen.to_clips(score_views(network, seen.inner[rows]), rows, clips) + network.offset


def _to_logits(model: nn.Module, inner: torch.Tensor) -> torch.Tensor:
    """The network's log-odds of live (views,) from what its unchanging part has made of them."""
    if inner.ndim == 4:  # as a network scores, and in half the time
        inner = inner.contiguous(memory_format=torch.channels_last)
    if not hasattr(model, "forward_late"):
        return model(inner).flatten()
    return _join_classes(model.forward_head(model.forward_late(inner)), _live_class(model))  # type: ignore[operator]


def _live_class(model: nn.Module) -> int:
    return int(getattr(model, "live_class", 0))


def _join_classes(classes: torch.Tensor, live: int) -> torch.Tensor:
    """Logits of the classes (N x K) -> log-odds of live (N,); one class is that already."""
    if classes.shape[1] == 1:
        return classes[:, 0]
    others = [place for place in range(classes.shape[1]) if place != live]
    return classes[:, live] - classes[:, others].logsumexp(1)


def _weigh_views(seen: Seen, labels: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Targets and weights (of sum 1) of the views ``rows``, and for how many clips they stand: twice the rarer
    class's."""
    clip = seen.clip[rows]
    target, counts = labels[clip], np.bincount(clip, minlength=len(labels))
    sizes = [len(set(clip[target == label])) for label in (0, 1)]
    weights = 0.5 / np.array(sizes)[target] / counts[clip]
    return target, weights, 2.0 * min(sizes)


# --- the classifier --------------------------------------------------------------------------------


def _find_features(network: Network, inner: torch.Tensor) -> torch.Tensor:
    """What the classifier is given (views x C), float64."""
    model = network.with_copy().model
    tap_classifier(model)
    found = []
    with one_thread(), torch.no_grad():
        for part in inner.split(_BATCH):
            _to_logits(model, part)
            found.append(take_tapped(model).features.double())
    return torch.cat(found)


def fit_classifier(network: Network, seen: Seen, labels: np.ndarray, clips: np.ndarray, plan: AdaptPlan) -> Network:
    """The network with a classifier of least log loss on some clips, held to the one that it has.

    The penalty is L2-SP's (Li et al. 2018) in units of the features' deviations: a normal prior around the old weights
    whose deviation is ``plan.head_spread``.
    """
    return _fit_linear(network, seen, labels, clips, plan, fresh=False)[0]


def fit_at_home(
    network: Network, seen: Seen, labels: np.ndarray, clips: np.ndarray, plan: AdaptPlan
) -> tuple[Network, float]:
    """The network with a classifier that these clips alone have made, and the offset of its log-odds."""
    return _fit_linear(network, seen, labels, clips, plan, fresh=True)


def _fit_linear(
    network: Network, seen: Seen, labels: np.ndarray, clips: np.ndarray, plan: AdaptPlan, fresh: bool
) -> tuple[Network, float]:
    from scipy.optimize import minimize

    rows, fitted = seen.rows_of(clips), network.with_copy()
    target, weights, count = _weigh_views(seen, labels, rows)
    head: nn.Linear = find_classifier(fitted.model)  # type: ignore[assignment]
    features = _find_features(network, seen.inner[rows])
    spread = features.std(0, unbiased=False).clamp_min(1e-6)
    first = torch.zeros_like(head.weight) if fresh else head.weight.detach()
    first, bias = first.double(), 0.0 if fresh or head.bias is None else head.bias.detach().double()
    goal, share = torch.from_numpy(target.astype(float)), torch.from_numpy(weights)
    slope, offset = (1.0, 0.0) if fresh else (network.slope, network.offset)
    live, learns = _live_class(fitted.model), int(fresh)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        moved = torch.from_numpy(values.copy()).requires_grad_(True)
        weight = first + (moved[learns:].view(first.shape) / spread)
        line = _join_classes(features @ weight.T + bias, live) * slope + offset + (moved[0] if fresh else 0.0)
        fit = (share * functional.binary_cross_entropy_with_logits(line, goal, reduction="none")).sum()
        total = count * fit + moved[learns:].square().sum() / (2 * plan.head_spread**2)
        (gradient,) = torch.autograd.grad(total, moved)
        return float(total.detach()), gradient.numpy()

    with one_thread():
        options = {"maxiter": _ROUNDS}
        begin = np.zeros(first.numel() + learns)
        values = minimize(loss, begin, jac=True, method="L-BFGS-B", options=options).x
        weight = first + torch.from_numpy(values[learns:]).view(first.shape) / spread
    with torch.no_grad():
        head.weight.copy_(weight)
        if fresh and head.bias is not None:
            head.bias.zero_()
    return fitted, float(values[0]) if fresh else 0.0


# --- the last stage --------------------------------------------------------------------------------


def fine_tune(network: Network, seen: Seen, labels: np.ndarray, clips: np.ndarray, plan: AdaptPlan) -> Network:
    """The network after ``plan.steps`` of training on some clips, with what keeps the old.

    Only what comes after ``Seen.inner`` learns. Norms keep their statistics, weights are pulled to the first ones
    (L2-SP), where the untouched network was right it teaches (distillation), and the result is a mean of the first
    weights and the last (WiSE-FT, Wortsman et al. 2022) whose shares were fixed beforehand.
    """
    rows = seen.rows_of(clips)
    target, tuned = labels[seen.clip[rows]].astype(np.float32), network.with_copy()
    with torch.random.fork_rng(devices=[]), one_thread():
        learning = _find_learning(tuned.model)
        first = [parameter.detach().clone() for parameter in learning]
        optimiser = torch.optim.Adam(learning, plan.lr)
        with torch.no_grad():
            taught = torch.cat([_to_logits(network.model, part) for part in seen.inner[rows].split(_BATCH)])
        for step, drawn in enumerate(_draw_batches(seen.clip[rows], target, plan)):
            loss = _measure_loss(tuned, seen.inner[rows[drawn]], torch.from_numpy(target[drawn]), taught[drawn], plan)
            loss += plan.l2_sp / 2 * sum((new - old).square().sum() for new, old in zip(learning, first, strict=True))
            optimiser.zero_grad()
            loss.backward()
            for group in optimiser.param_groups:
                group["lr"] = plan.lr * (1 - step / plan.steps)
            optimiser.step()
        with torch.no_grad():
            for new, old in zip(learning, first, strict=True):
                new.lerp_(old, plan.keep_init)
    tuned.model.requires_grad_(False)
    return tuned


def _find_learning(model: nn.Module) -> list[nn.Parameter]:
    """The parameters after the unchanging part, which from now on learn; all where a model has no such part."""
    model.eval()  # norms keep their statistics
    names = [name for name, _ in model.named_parameters()]
    if hasattr(model, "late_layers"):
        names = [name for name in names if name.split(".")[0] in model.late_layers]  # type: ignore[operator]
    found = [model.get_parameter(name) for name in names]
    for parameter in found:
        parameter.requires_grad_(True)
    return found


def _draw_batches(clip: np.ndarray, target: np.ndarray, plan: AdaptPlan) -> list[np.ndarray]:
    """Views for every step: half of them live, a clip of the class first and then one of its views."""
    rng = np.random.default_rng(plan.seed)
    by_class = [[np.flatnonzero(clip == one) for one in np.unique(clip[target == label])] for label in (0, 1)]
    batches = []
    for _ in range(plan.steps):
        views = [by_class[k % 2][rng.integers(len(by_class[k % 2]))] for k in range(plan.batch)]
        batches.append(np.array([part[rng.integers(len(part))] for part in views]))
    return batches


def _measure_loss(
    tuned: Network, inner: torch.Tensor, target: torch.Tensor, taught: torch.Tensor, plan: AdaptPlan
) -> torch.Tensor:
    """Cross-entropy with the labels at the calibrated scale; where the untouched network (``taught``) is on the right
    side, ``distil_weight`` of it is the distance to its own answer."""
    logits = _to_logits(tuned.model, inner)
    line, before = (tuned.slope * part + tuned.offset for part in (logits, taught))
    own = functional.binary_cross_entropy_with_logits(line, target, reduction="none")
    right = ((before > 0) == (target > 0.5)).float() * plan.distil_weight
    return ((1 - right) * own + right * distil_logits(line, before, plan.distil_temperature)).mean()
