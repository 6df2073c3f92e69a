"""The model card of an exported ensemble: what it is, how it was compared, how it is used.

Works on what contract.json holds; reads and writes nothing.
"""

from typing import Any

_HEAD = (
    "| runtime | clips | groups | largest difference | members' own | decisions flipped | pairs turned | EER, change |"
)


def write_card(about: dict[str, Any]) -> str:
    """MODEL_CARD.md of an exported ensemble, from its contract."""
    parts = [_introduction(about), _members(about), _decisions(about), _gate(about), _use(about)]
    return "\n\n".join(parts) + "\n"


def _introduction(about: dict[str, Any]) -> str:
    return (
        f"# {about['ensemble']}, exported ({about['precision']})\n\n"
        f"Face liveness (presentation attack detection): {len(about['members'])} networks that were trained on the set "
        f"`{about['data']}`. A score is a probability of live, from 0 to 1. It says nothing of cameras, attacks and "
        "people that are unlike those of that set; measure it on your own clips before anything depends on it. "
        "`contract.json` has everything that scoring takes, and the SHA-256 of every file."
    )


def _members(about: dict[str, Any]) -> str:
    rows = ["## Members", "", "| file | model | sees | input | frames | weight |", "|---|---|---|---|---|---|"]
    for member in about["members"]:
        view, frames = member["contract"]["view"], member["contract"]["frames"]
        sees = (
            "the whole frame"
            if view["kind"] == "frame"
            else f"the face x {', '.join(f'{s:g}' for s in view['scales'])}"
        )
        rows.append(
            f"| `{member['file']}` | {member['model']} | {sees} | {view['size']} px | {frames['plan']} | "
            f"{member['weight']:g} |"
        )
    return "\n".join(rows)


def _decisions(about: dict[str, Any]) -> str:
    operating = about["operating"]
    if operating is None:
        return "## Decisions\n\nNo operating point: the threshold is 0.5, and scores are not calibrated."
    rows = ["## Decisions", "", "| point | threshold | abstains between | chosen on |", "|---|---|---|---|"]
    for point in operating["thresholds"]:
        low, high = point.get("threshold_interval") or (point["threshold"], point["threshold"])
        videos = f", {point['videos']} videos" if "videos" in point else ""
        rows.append(
            f"| {point['name']} | {point['threshold']:.4f} | {low:.4f} and {high:.4f} | "
            f"{point.get('split', 'out of fold')}{videos} |"
        )
    for limit in operating.get("limits", []):
        bounds = [f"{word} {limit[key]:g}" for key, word in (("least", "below"), ("most", "above")) if key in limit]
        rows += ["", f"Abstains (`{limit['reason']}`) where {limit['measure']} is {' or '.join(bounds)}."]
    return "\n".join(rows)


def _gate(about: dict[str, Any]) -> str:
    gate = about["gate"]
    held_out = (
        "each member scored only clips that it had held out" if gate["held_out"] else "every member scored every clip"
    )
    asked = (
        "at most 1e-4 between scores and no flipped decision"
        if gate["tolerance"] is None
        else f"at most {100 * gate['tolerance']:g} % flipped decisions, by the upper limit of the exact 95 % interval, "
        "on clips of persons that int8 was not calibrated on"
    )
    rows = [
        "## Agreement with the members",
        "",
        f"Compared with the members in torch on the set `{gate['on']}`, from the same decoded views; {held_out}. "
        f"Asked for: {asked}.",
        "",
        _HEAD,
        "|---|---|---|---|---|---|---|---|",
        *(_gate_row(runtime, figures) for runtime, figures in gate["runtimes"].items()),
    ]
    methods = {figures["eer"]["method"] for figures in gate["runtimes"].values() if figures["eer"]}
    if methods:
        rows += ["", f"The interval of the EER's change: {', '.join(sorted(methods))}."]
    rows += [
        "",
        "| runtime | point | flipped | crossed the threshold | of | at most (95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for runtime, figures in gate["runtimes"].items():
        rows += [
            f"| {runtime} | {p['name']} | {p['flipped']} | {p['crossed']} | {p['of']} | {100 * p['upper']:.2f} % |"
            for p in figures["points"]
        ]
    return "\n".join(rows)


def _gate_row(runtime: str, figures: dict[str, Any]) -> str:
    eer = figures["eer"]
    change = "one class only"
    if eer is not None:
        low, high = eer["interval"]
        change = f"{100 * eer['exported']:.2f} %, {100 * eer['difference']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    worst = max(figures["points"], key=lambda point: point["flipped"])
    passed = "" if figures["passed"] else " (not passed)"
    return (
        f"| {runtime} {figures['version']}{passed} | {figures['scored']} of {figures['clips']} | {figures['groups']} | "
        f"{figures['largest_difference']:.1e} | {figures['member_difference']:.1e} | "
        f"{worst['flipped']} of {worst['of']} | "
        f"{figures['inversions']['turned']} of {figures['inversions']['pairs']} | {change} |"
    )


def _use(about: dict[str, Any]) -> str:
    made = ", ".join(f"{name} {version}" for name, version in about["made_with"].items())
    return (
        "## Use\n\n"
        '```\npip install "liveness[runtime]"\nliveness predict --exported THIS_FOLDER VIDEOS OUT\n```\n\n'
        '```python\nfrom liveness import Detector\n\nrow = Detector("THIS_FOLDER").score("clip.mp4")\n```\n\n'
        f"Made with {made}."
    )
