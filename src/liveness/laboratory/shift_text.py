"""What the shift laboratory has found, as text for people. Reads and writes nothing."""

import math

import numpy as np

from liveness.evaluation.intervals import FEW_GROUPS
from liveness.simulation.stress import STRESSORS


def render_shift(summary: dict, other: str = "") -> str:
    """The table of one system; ``other``: the name of the one that it was compared with."""
    clean = summary["clean"]
    lines = [
        "",
        f"{summary['ensemble']} on {summary['data']}: {summary['videos']} held-out videos, {clean['groups']} groups; "
        f"clean EER {_percent(clean['eer'])} {_range(clean['interval'])}",
        f"  {'stressor':12}{'parameters':28}{'EER':>7}  {'95 % interval':15}{'change':>7}  "
        f"{'APCER':>7}{'BPCER':>7}{'no score':>9}  verdict" + (f"  ({other}: EER, verdict)" if other else ""),
    ]
    for row in summary["rows"]:
        name = f"{row['stressor']} {row['severity']}"
        line = (
            f"  {name:12}{row['parameters']:28}{_percent(row['eer']):>7}  {_range(row['interval']):15}"
            f"{100 * row['difference']:>+7.1f}  {_percent(row['apcer']):>7}{_percent(row['bpcer']):>7}"
            f"{row['no_score']:>9}  {row['verdict']}"
        )
        if other:
            line += f"  ({_percent(row['against']['eer'])}, {row['against']['verdict']})"
        lines.append(line)
    lines.append(
        "  APCER and BPCER at the clean equal-error threshold; print and replay: against the clean live videos"
    )
    if clean["groups"] < FEW_GROUPS:
        lines.append(f"  {clean['groups']} groups: intervals are by video, too narrow to speak for other groups")
    return "\n".join(lines)


def render_recipes(summaries: list[dict]) -> str:
    """Recipes side by side: clean error, error under the stresses of quality and time, and under simulated attacks."""
    lines = ["", f"  {'':24}{'clean':>7}   {'stressed EER':^18}   {'stressed HTER':^16}   {'attack EER':^16}"]
    lines.append(
        f"  {'recipe':24}{'EER':>7}   {'mean':>8}{'worst':>8}   {'mean':>8}{'worst':>8}   {'print':>8}{'replay':>8}"
    )
    for summary in summaries:
        quality = [row for row in summary["rows"] if STRESSORS[row["stressor"]].kind != "attack"]
        attacks = {kind: [row for row in summary["rows"] if row["stressor"] == kind] for kind in ("print", "replay")}
        figures = [
            *_mean_and_worst([row["eer"] for row in quality]),
            *_mean_and_worst([(row["apcer"] + row["bpcer"]) / 2 for row in quality]),
            *(_mean_and_worst([row["eer"] for row in rows])[1] for rows in attacks.values()),
        ]
        shown = [f"{_percent(value):>8}" for value in figures]
        pairs = "   ".join("".join(shown[k : k + 2]) for k in (0, 2, 4))
        lines.append(f"  {summary['ensemble']:24}{_percent(summary['clean']['eer']):>7}   {pairs}")
    lines.append("  HTER: mean of APCER and BPCER at the clean equal-error threshold; attacks: the worst severity")
    return "\n".join(lines)


def _mean_and_worst(values: list[float]) -> tuple[float, float]:
    return (float(np.mean(values)), float(max(values))) if values else (float("nan"), float("nan"))


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _range(interval: list[float]) -> str:
    low, high = interval
    return "-" if math.isnan(low) else f"{100 * low:.1f}-{100 * high:.1f}"
