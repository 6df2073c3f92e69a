"""What a search has found, as text for people: tables of at most 110 columns. Reads and writes nothing."""

from liveness.base.config import Ensemble
from liveness.evaluation.format import (
    align_columns,
    counted,
    percent,
    percent_range,
    percentage_points,
    percentage_points_range,
)
from liveness.evaluation.report_text import verdict
from liveness.members.names import parse_member_name, recipe_fold


def render_search(found: dict, ensemble: Ensemble) -> str:
    """Everything as text of at most 110 columns."""
    costs = found["costs"]
    counts = counted(found["videos"], "video")
    left = sum(found["left_out"].values())
    lines = [
        "",
        f"{found['ensemble']} on {found['data']}: {counts} that every recipe scores out of fold"
        + (f" ({left} others left out)" if left else ""),
        f"  milliseconds per video ({costs['device']}): decoding {costs['decode']:.1f}, views "
        f"{sum(costs['views'].values()):.1f}, all members {sum(costs['members'].values()):.1f}",
        "",
        *_subset_lines(found),
        *_cascade_lines(found, ensemble),
    ]
    if found["holdout"]:
        held = found["holdout"]
        lines += ["", f"on the holdout, {counted(held['videos'], 'video')} that no member was trained on:", ""]
        lines += [*_subset_lines(held), *_cascade_lines(held, ensemble)]
    return "\n".join(lines)


def _subset_lines(found: dict) -> list[str]:
    """Subsets, cheapest first; those on the front are marked."""
    one = {tuple(sorted(_list_recipes(row["members"]))): row for row in found["subsets"] if row["folds"] == "one"}
    rows = [("system", "ms", "ms, one fold each", "EER", "95 % interval", "front", "against all members")]
    most = max(row["size"] for row in found["subsets"])
    for row in found["subsets"]:
        if row["folds"] == "one":
            continue
        names = _list_recipes(row["members"]) if row["folds"] else [_member_text(name) for name in row["members"]]
        lone = one.get(tuple(sorted(names)))
        rows.append(
            (
                _shortened(names),
                f"{row['milliseconds']:.1f}",
                f"{lone['milliseconds']:.1f}" if lone else "",
                percent(row["eer"]),
                percent_range(row["interval"]),
                "*" if row["pareto"] else "",
                "(all members)" if row["size"] == most else _against(row),
            )
        )
    pick, cheap = found["pick"], found["cheapest_alike"]
    alike = next(row for row in found["subsets"] if row["members"] == cheap)
    more = found["tried"] - len(found["subsets"])
    lines = align_columns(rows) + ([f"  {more} more were tried and are less telling"] if more > 0 else [])
    lines += [
        "",
        f"  lowest EER: {_system_text(pick)}, {percent(pick['eer'])} on the videos that it was chosen on;",
        f"    chosen on some folds and judged on the others: {percent(pick['nested_eer'])} "
        f"({percent_range(pick['interval'])})",
        f"  cheapest that is not told to be worse than all members: {_system_text(alike)}, "
        f"{alike['milliseconds']:.1f} ms",
    ]
    return lines


def _cascade_lines(found: dict, ensemble: Ensemble) -> list[str]:
    """Cascades, cheapest first, and the lines that put the proposed one to use."""
    if not found["cascades"]:
        return ["", "  no cascade can be judged: that takes a second recipe, or a holdout, and two folds"]
    rows = [("cascade: first", "rule", "ms", "escalated", "EER", "95 % interval", "change", "95 % interval")]
    for row in found["cascades"]:
        rows.append(
            (
                _shortened([_member_text(name) for name in row["first"]]),
                row["rule"],
                f"{row['milliseconds']:.1f}",
                percent(row["escalated"]),
                percent(row["eer"]),
                percent_range(row["interval"]),
                percentage_points(row["difference"]),
                percentage_points_range(row["difference_interval"]),
            )
        )
    lines = ["", *align_columns(rows), ""]
    chosen = found["cascade"]
    if chosen is None:
        return [*lines, "  no cascade saves time at the same error"]
    first = ", ".join(_member_text(name) for name in chosen["first"])
    return [
        *lines,
        f"  to use the cheapest that keeps the error, put into configs/ensemble/{ensemble.name}.yaml:",
        f"    cascade: {{first: [{first}], low: {chosen['low']}, high: {chosen['high']}}}",
    ]


def _list_recipes(members: list[str]) -> list[str]:
    return list(dict.fromkeys(parse_member_name(name)[0] for name in members))


def _member_text(name: str) -> str:
    """``recipe:fold``, as ensembles and --members write it."""
    return recipe_fold(*parse_member_name(name))


def _against(row: dict) -> str:
    return verdict({"verdict": row["against_full"], "videos_to_tell": row["videos_to_tell"]})


def _system_text(row: dict) -> str:
    return _shortened(
        _list_recipes(row["members"]) if row["folds"] else [_member_text(name) for name in row["members"]]
    )


def _shortened(names: list[str]) -> str:
    text = " + ".join(names)
    return text if len(text) <= 60 else f"{names[0]} + {len(names) - 1} more"
