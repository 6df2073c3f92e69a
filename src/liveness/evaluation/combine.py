"""From frame scores to a video's score, from members' scores to an ensemble's.

Training, evaluation and prediction all combine through this module, so a score means the same in
each of them. Scores are probabilities of live in [0, 1]; nan means "no score".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from liveness.base.errors import UserError

if TYPE_CHECKING:  # prediction with an exported ensemble comes through here where there is no pandas
    import pandas as pd

_WAYS = "mean, median, logit_mean, top<k>, low<k> or trimmed<percent>"
# A float32 sigmoid saturates 6e-8 from 1, so logits beyond this are rounding, not evidence.
LOGIT_EPS = 1e-7
_EXP_MOST = 709.0  # above, math.exp overflows
HOLDOUT = -1  # the fold of videos that no member is trained on and every member scores


def logit(scores: np.ndarray) -> np.ndarray:
    """Log-odds of scores in [0, 1], clipped to [1e-7, 1 - 1e-7] first; nan stays nan."""
    clipped = np.clip(np.asarray(scores, dtype=np.float64), LOGIT_EPS, 1 - LOGIT_EPS)
    return np.log(clipped) - np.log1p(-clipped)


def sigmoid(values: np.ndarray | float) -> Any:
    """Inverse of ``logit``. Of one number the bits are those of scipy's ``expit``, without scipy."""
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0:
        one = float(values)
        return np.float64(math.exp(one) if one < -_EXP_MOST else 1 / (1 + math.exp(-one)))
    from scipy.special import expit

    return expit(values)


def frames_to_video(scores: np.ndarray, how: str) -> float:
    """Combine one video's frame scores; frames without a finite score are passed over.

    scores: any shape, probabilities. how: ``mean``; ``median``; ``logit_mean`` (mean of the
    log-odds, back as a probability); ``top<k>`` / ``low<k>`` (mean of the k highest / lowest, of
    all if there are fewer); ``trimmed<p>`` (mean without the p % lowest and the p % highest,
    rounded down, 0 <= p < 50). Returns nan if no frame has a finite score. ValueError for any
    other ``how``.
    """
    kind, number = _parse_how(how)
    values = np.asarray(scores, dtype=np.float64).ravel()
    values = np.sort(values[np.isfinite(values)])  # sorted: the result does not depend on the order of frames
    if values.size == 0:
        return float("nan")
    if kind == "logit_mean":
        # Equal frames give their own score exactly, not what is left of it after two transforms.
        return float(values[0]) if values[0] == values[-1] else float(sigmoid(logit(values).mean()))
    return float(_middle(values, kind, number))


def _middle(values: np.ndarray, kind: str, number: int) -> Any:
    """The mean of the sorted scores (..., frames) that count, or their median, over the last axis."""
    if kind == "median":
        return np.median(values, axis=-1)
    if kind == "top":
        values = values[..., -number:]
    elif kind == "low":
        values = values[..., :number]
    elif kind == "trimmed":
        cut = int(values.shape[-1] * number / 100)
        values = values[..., cut : values.shape[-1] - cut]
    return values.mean(axis=-1)


def check_how(how: str) -> None:
    """ValueError if ``frames_to_video`` does not know this way."""
    _parse_how(how)


def _parse_how(how: str) -> tuple[str, int]:
    if how in ("mean", "median", "logit_mean"):
        return how, 0
    match = re.fullmatch(r"(top|low|trimmed)(\d+)", how)
    if match:
        kind, number = match.group(1), int(match.group(2))
        if (kind == "trimmed" and number < 50) or (kind != "trimmed" and number >= 1):
            return kind, number
    raise ValueError(f"cannot combine frames by {how!r}; expected {_WAYS}")


def video_scores(oof: pd.DataFrame, how: str) -> pd.DataFrame:
    """One row per video from one row per frame.

    oof: columns filename, label, fold, score (nan where there is none), status. Returns filename,
    label, fold, score, status in the order of first appearance. status is ``ok`` if any frame has
    a score, else the status of the video's first row. A video whose rows differ in label or fold
    is a UserError.
    """
    import pandas as pd

    video, filenames = pd.factorize(oof["filename"])
    first = np.unique(video, return_index=True)[1]
    _require_one_value(oof, video, first)
    scores = _combine_frames(oof["score"].to_numpy(dtype=np.float64), video, len(first), how)
    # A row that claims to be fine but has no score still is no response.
    status = oof["status"].iloc[first].astype(str).replace("ok", "no_score").to_numpy(dtype=object)
    table = {"filename": filenames.tolist(), "label": oof["label"].iloc[first].tolist()}
    table |= {"fold": oof["fold"].iloc[first].tolist(), "score": scores}
    return pd.DataFrame(table | {"status": np.where(np.isfinite(scores), "ok", status).tolist()})


def _require_one_value(oof: pd.DataFrame, video: np.ndarray, first: np.ndarray) -> None:
    """A UserError unless the rows of a ``video`` (its number for each row) have label and fold of its ``first``."""
    differs = {}
    for column in ("label", "fold"):
        own, wanted = oof[column].to_numpy(), oof[column].to_numpy()[first][video]
        differs[column] = (own != wanted) & ~((own != own) & (wanted != wanted))  # nan is nan
    wrong = np.flatnonzero(differs["label"] | differs["fold"])
    if len(wrong):
        worst = int(video[wrong].min())
        column = next(name for name, rows in differs.items() if rows[video == worst].any())
        name = oof["filename"].iloc[first[worst]]
        raise UserError(f"{name}: its frames have different {column}s; expected one {column} per video")


def _combine_frames(scores: np.ndarray, video: np.ndarray, count: int, how: str) -> np.ndarray:
    """``frames_to_video`` of each of ``count`` videos, bit for bit, of scores (frames,) and a video's number for each.

    The videos of one number of frames are one matrix.
    """
    kind, number = _parse_how(how)
    there = np.flatnonzero(np.isfinite(scores))
    there = there[np.lexsort((scores[there], video[there]))]
    counts = np.bincount(video[there], minlength=count)
    starts = np.cumsum(counts) - counts
    combined = np.full(count, np.nan)
    for frames in np.unique(counts[counts > 0]):
        mine = np.flatnonzero(counts == frames)
        values = scores[there[starts[mine][:, None] + np.arange(frames)]]
        if kind == "logit_mean":
            blended = sigmoid(logit(values).mean(axis=-1))
            combined[mine] = np.where(values[:, 0] == values[:, -1], values[:, 0], blended)
        else:
            combined[mine] = _middle(values, kind, number)
    return combined


def blend(scores: pd.DataFrame, weights: dict[str, float]) -> pd.Series:
    """Weighted mean over the members that have a score for the video.

    scores: index filename, one column per member, nan where the member has none. weights: one
    non-negative number per column (only their ratios matter). The weights are renormalised over
    the members present in each row; a row with none (or only members of weight 0) gives nan.
    ValueError if columns and weights do not name the same members.
    """
    import pandas as pd

    if set(scores.columns) != set(weights):
        raise ValueError(
            f"weights for {sorted(weights)}, scores of {sorted(scores.columns)}: expected the same members"
        )
    values = scores.to_numpy(dtype=np.float64)
    weight = np.array([float(weights[name]) for name in scores.columns])
    if weight.size and (weight.min() < 0 or not np.isfinite(weight).all()):
        raise ValueError(f"weights {weights}: expected finite numbers from 0")
    return pd.Series(blend_rows(values, weight), index=scores.index, name="score")


def blend_rows(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``blend`` of plain numbers: values (videos x members), weights (members,) from 0 -> scores (videos,)."""
    present = np.isfinite(values)
    shares = np.where(present, weights, 0.0)
    total = shares.sum(axis=1, keepdims=True)
    # Dividing first makes the share of a lone member exactly 1, so its score passes unchanged.
    shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
    blended = (shares * np.where(present, values, 0.0)).sum(axis=1)
    return np.where(total[:, 0] > 0, blended, np.nan)


@dataclass(frozen=True)
class MemberScores:
    """What one member says about its held-out fold."""

    name: str  # <recipe>_fold<k>
    fold: int
    weight: float
    videos: pd.DataFrame  # of video_scores()


def assemble(folds: pd.DataFrame, members: list[MemberScores]) -> pd.DataFrame:
    """The ensemble's out-of-fold table: a video is scored only by members that held it out.

    A video of the holdout (fold -1) was held out by all of them.

    folds: filename, label, group, fold of the whole set. Returns filename, label, group, fold,
    score, status and one column per member, in the order of ``folds``. status: ``ok``; the
    member's own status where no member has a score; ``no_row`` where its members list it nowhere;
    ``not_covered`` where no member holds out its fold. UserError if a member scored a video that
    is not in ``folds``, or under another label or fold than there: then the folds changed since
    the training and the score may come from a member that has seen the video.
    """
    import pandas as pd

    known = folds.set_index("filename")
    scores = pd.DataFrame(index=known.index)
    status = pd.Series("not_covered", index=known.index, dtype=object)
    for member in members:
        _require_held_out(member, known)
        videos = member.videos.set_index("filename")
        scores[member.name] = videos["score"].reindex(known.index).astype(np.float64)
        held_out = known["fold"].isin((member.fold, HOLDOUT))
        theirs = videos["status"].reindex(known.index).astype(object).where(lambda s: s.notna(), "no_row")
        status = status.where(~held_out | ~status.isin(["not_covered", "no_row"]), theirs)
    score = blend(scores, {member.name: member.weight for member in members})
    table = folds[["filename", "label", "group", "fold"]].reset_index(drop=True).copy()
    table["score"] = score.to_numpy()
    table["status"] = np.where(np.isfinite(table["score"]), "ok", status.to_numpy())
    for name in scores.columns:
        table[name] = scores[name].to_numpy()
    return table


def _require_held_out(member: MemberScores, known: pd.DataFrame) -> None:
    """A UserError unless every video of the member is of its fold, or of the holdout, in the folds table."""
    aside = set(known.index[known["fold"] == HOLDOUT]) - set(member.videos["filename"])
    if aside:
        raise UserError(
            f"{member.name} has not scored {min(aside)} of the holdout ({len(aside)} videos in all); "
            "the folds changed since training; train this member again"
        )
    videos, now = member.videos, known.reindex(member.videos["filename"])
    gone = ~videos["filename"].isin(known.index).to_numpy()
    fold, label = videos["fold"].to_numpy(), videos["label"].to_numpy()
    dealt_anew = (fold != now["fold"].to_numpy()) | ~np.isin(fold, (member.fold, HOLDOUT))
    wrong = np.flatnonzero(gone | dealt_anew | (label != now["label"].to_numpy()))
    if not len(wrong):
        return
    row = videos.iloc[wrong[0]]
    trained = f"{member.name}: {row['filename']} was held out in fold {row['fold']}"
    advice = "the folds changed since training; train this member again"
    if gone[wrong[0]]:
        raise UserError(f"{trained}, but folds.csv does not have it: {advice}")
    there = known.loc[row["filename"]]
    if dealt_anew[wrong[0]]:
        raise UserError(f"{trained}, but folds.csv has it in fold {there['fold']}: {advice}")
    raise UserError(f"{member.name}: {row['filename']} had label {row['label']}, now {there['label']}: {advice}")


# Members -> ensemble beyond given weights. A column here is a recipe whose folds together score
# every video, so that what is learned on some folds can be tried on another.

FIXED = ("equal", "logit_mean")
LEARNED = ("rank_mean", "weights", "stacking", "greedy")
STACKING_C = 1.0  # inverse strength of the L2 penalty of the stacking regression
GREEDY_ROUNDS = 20
_WEIGHT_PENALTY = 0.01  # pull to equal weights: decides between members that say the same


def join_by_recipe(table: pd.DataFrame, recipes: dict[str, str]) -> pd.DataFrame:
    """Members' columns of an ``assemble`` table joined per recipe (index filename, nan where none).

    recipes: member column -> recipe. A video is held out by at most one member of a recipe.
    """
    import pandas as pd

    joined = pd.DataFrame(index=pd.Index(table["filename"], name="filename"))
    for recipe in dict.fromkeys(recipes.values()):
        columns = [name for name, its in recipes.items() if its == recipe]
        joined[recipe] = table[columns].mean(axis=1, skipna=True).to_numpy()
    return joined


@dataclass(frozen=True)
class Combination:
    """How members become one score; ``fit_combination`` makes it, ``apply`` uses it."""

    how: str
    weights: dict[str, float]  # per column; stacking: the factor of its log-odds
    offset: float = 0.0  # stacking: added to the log-odds
    reference: dict[str, np.ndarray] | None = None  # rank_mean: the sorted scores that ranks refer to

    def apply(self, scores: pd.DataFrame) -> pd.Series:
        """One score per row (index kept), nan where no member has one.

        equal, weights and greedy give the weighted mean of probabilities, logit_mean that of
        log-odds, rank_mean the mean share of the reference scores below (ties half): an order, not
        a probability. stacking gives the regression's probability; a member missing from a row
        counts there as the mean log-odds of the others.
        """
        import pandas as pd

        scores = scores[list(self.weights)]
        if self.how == "stacking":
            values = _filled(logit(scores.to_numpy()))
            total = self.offset + values @ np.array(list(self.weights.values()))
            return pd.Series(sigmoid(total), index=scores.index, name="score")
        if self.how == "rank_mean":
            reference = self.reference or {}
            scores = scores.apply(lambda column: _ranks(column, reference[column.name]))
        if self.how == "logit_mean":
            logits = pd.DataFrame(logit(scores.to_numpy()), index=scores.index, columns=scores.columns)
            return pd.Series(sigmoid(blend(logits, self.weights)), index=scores.index, name="score")
        # Where only members of weight 0 have a score, theirs is better than none.
        return blend(scores, self.weights).fillna(blend(scores, dict.fromkeys(self.weights, 1.0)))


def fit_combination(how: str, scores: pd.DataFrame, labels) -> Combination:
    """Learn a combination from videos' scores (rows) of several members (columns) and their labels.

    how: one of FIXED (labels are not looked at) or LEARNED: ``rank_mean`` (learns the members'
    distributions), ``weights`` (non-negative, sum 1, least log loss of the blend), ``stacking``
    (L2-regularised logistic regression on log-odds), ``greedy`` (Caruana et al. 2004: the member
    that lowers the log loss most is added, again and again, with repetition). Where a class is
    absent the last three give equal weights. ValueError for any other ``how``.
    """
    if how not in FIXED + LEARNED:
        raise ValueError(f"cannot combine members by {how!r}; expected one of {', '.join(FIXED + LEARNED)}")
    equal = dict.fromkeys(scores.columns, 1 / scores.shape[1])
    if how in FIXED:
        return Combination(how, equal)
    if how == "rank_mean":
        reference = {name: np.sort(scores[name].dropna().to_numpy()) for name in scores.columns}
        return Combination(how, equal, reference=reference)
    labels = np.asarray(labels).astype(bool)
    some = scores.notna().any(axis=1).to_numpy()
    values, labels = scores.to_numpy(dtype=np.float64)[some], labels[some]
    if labels.size == 0 or labels.all() or not labels.any():
        return Combination("equal", equal)
    if how == "stacking":
        return _fit_stacking(scores.columns, values, labels)
    learned = (_fit_weights if how == "weights" else _fit_greedy)(_filled(values), labels)
    return Combination(how, dict(zip(scores.columns, learned.tolist(), strict=True)))


def cross_fit_combination(how: str, scores: pd.DataFrame, labels, folds) -> pd.Series:
    """Scores of a combination that never saw the video's fold: fitted on the others, fold by fold.

    Arguments as in ``fit_combination``; folds: one per row (grouped folds, so that no person is on both
    sides). The members' own scores must be out-of-fold already; what remains is that a score of
    another fold comes from a member that was trained on this one, which the members' scores in
    their fold do not show. With one fold only the FIXED ways are possible: ValueError otherwise.
    """
    import pandas as pd

    folds, labels = np.asarray(folds), np.asarray(labels)
    if how in FIXED:
        return fit_combination(how, scores, labels).apply(scores)
    if len(set(folds)) < 2:
        raise ValueError(f"{how} needs at least two folds: one to learn on, one to be judged on")
    found = pd.Series(np.nan, index=scores.index, name="score")
    for fold in sorted(set(folds)):
        rest, here = folds != fold, folds == fold
        found[here] = fit_combination(how, scores[rest], labels[rest]).apply(scores[here]).to_numpy()
    return found


def _filled(values: np.ndarray) -> np.ndarray:
    """Missing entries replaced by the mean of the row's others; rows without any stay nan."""
    present = np.isfinite(values)
    count = present.sum(axis=1, keepdims=True)
    total = np.where(present, values, 0).sum(axis=1, keepdims=True)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.where(present, values, mean)


def _ranks(column: pd.Series, reference: np.ndarray) -> pd.Series:
    """Share of the reference below each score, ties half; nan stays nan."""
    import pandas as pd

    if reference.size == 0:
        return column * np.nan
    values = column.to_numpy(dtype=np.float64)
    share = (np.searchsorted(reference, values, "left") + np.searchsorted(reference, values, "right")) / 2
    return pd.Series(np.where(np.isfinite(values), share / reference.size, np.nan), index=column.index)


def _fit_stacking(columns, values: np.ndarray, labels: np.ndarray) -> Combination:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=STACKING_C, max_iter=1000).fit(_filled(logit(values)), labels)
    weights = dict(zip(columns, model.coef_[0].tolist(), strict=True))
    return Combination("stacking", weights, offset=float(model.intercept_[0]))


def _loss(blended: np.ndarray, labels: np.ndarray) -> float:
    """Mean log loss of probabilities, clipped as ``logit`` clips."""
    chance = np.clip(np.where(labels, blended, 1 - blended), LOGIT_EPS, 1)
    return float(-np.log(chance).mean())


def _fit_weights(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights from 0, of sum 1, with the least log loss of the weighted mean (convex)."""
    from scipy.optimize import minimize

    chances = np.clip(np.where(labels[:, None], values, 1 - values), LOGIT_EPS, 1)
    equal = np.full(values.shape[1], 1 / values.shape[1])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        blended = np.maximum(chances @ weights, LOGIT_EPS)
        slope = -(chances / blended[:, None]).mean(axis=0) + 2 * _WEIGHT_PENALTY * (weights - equal)
        return -np.log(blended).mean() + _WEIGHT_PENALTY * ((weights - equal) ** 2).sum(), slope

    found = minimize(
        loss,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * equal.size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
    )
    weights = np.clip(found.x, 0, None)
    weights[weights < 1e-6] = 0
    return weights / weights.sum()


def _fit_greedy(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts over their sum of the best of GREEDY_ROUNDS selections with repetition."""
    counts = np.zeros(values.shape[1])
    best, chosen = np.inf, counts
    for size in range(1, GREEDY_ROUNDS + 1):
        losses = [_loss((values @ counts + values[:, i]) / size, labels) for i in range(counts.size)]
        counts[int(np.argmin(losses))] += 1
        if min(losses) < best - 1e-9:
            best, chosen = min(losses), counts.copy()
    return chosen / chosen.sum()
