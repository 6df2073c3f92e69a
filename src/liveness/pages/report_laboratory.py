"""The report's sections on what the laboratory found: the videos changed (shift), and which ensemble (search)."""

import math

from liveness.members.names import parse_member_name, recipe_fold
from liveness.pages import charts

_MOST_SHIFT = 60  # rows of a table
_MOST_SUBSETS = 40
_CELLS = {"worse": "bad", "better": "is-live"}
# What a file of another state may lack is None.
_UNMEASURED = dict.fromkeys(
    ("parameters", "severity", "interval", "difference", "difference_interval", "verdict")
    + ("apcer", "bpcer", "auc", "videos", "no_score")
)
_UNSEARCHED = dict.fromkeys(
    ("milliseconds", "eer", "interval", "against_full", "pareto", "folds", "low", "high", "rule", "escalated")
    + ("difference", "difference_interval")
)


def tabulate_shift(found: dict | None) -> dict | None:
    """The laboratory's rows, worst first, with pictures on one scale."""
    if not found:
        return None
    known = [row for row in found["rows"] if isinstance(row, dict) and isinstance(row.get("eer"), (int, float))]
    known.sort(key=lambda row: -row["eer"])
    told = found.get("clean")
    clean = told if isinstance(told, dict) else {}
    most = round_reach([row.get("interval") for row in known])
    rows = [
        {**_UNMEASURED, **row, "picture": charts.draw_whisker(row["eer"], row.get("interval"), most)} for row in known
    ]
    for row in rows:
        row["css"] = _CELLS.get(row["verdict"], "")
    return {
        "rows": rows[:_MOST_SHIFT],
        "all": len(found["rows"]),
        "clean": {"eer": clean.get("eer"), "interval": clean.get("interval"), "videos": clean.get("videos")},
        "clean_picture": charts.draw_whisker(clean.get("eer"), clean.get("interval"), most),
        "counts": _count_verdicts(rows, len(found["rows"])),
    }


def _count_verdicts(rows: list[dict], every: int) -> str:
    """What became of all the changes, in words whose numbers add up; rows: those with an error rate."""
    verdicts = [row["verdict"] for row in rows]
    known = {"worse": "worse", "better": "better", "cannot be told apart": "undecided (cannot be told apart)"}
    parts = [f"{verdicts.count(verdict)} {words}" for verdict, words in known.items()]
    others = sum(verdict not in known for verdict in verdicts)
    parts += [f"{others} not compared"] if others else []
    parts += [f"{every - len(rows)} without an error rate"] if every > len(rows) else []
    return ", ".join(parts)


def tabulate_search(found: dict | None) -> list[dict]:
    """What liveness.search found, out of fold and on the holdout: each a plot and tables."""
    if not found:
        return []
    blocks = [("Out of fold", found), ("On the holdout", found.get("holdout"))]
    return [_tabulate_block(title, block, found) for title, block in blocks if isinstance(block, dict)]


def _tabulate_block(title: str, block: dict, found: dict) -> dict:
    """One block: figures that search.json does not have are None."""
    lists = {}
    for kind, source in (("members", found), ("subsets", block), ("cascades", block)):
        rows = [row for row in source.get(kind) or [] if isinstance(row, dict)]
        lists[kind] = [{**_UNSEARCHED, **row, "title": _name_system(kind, row)} for row in rows]
    subsets = sorted(lists["subsets"], key=lambda row: (row["milliseconds"] is None, row["milliseconds"] or 0))
    most = max((len(row.get("members", [])) for row in subsets), default=0)
    shown = [row | {"whole": len(row.get("members", [])) == most} for row in subsets]
    alike = next((row for row in shown if row.get("members") == block.get("cheapest_alike")), None)
    front = [row for row in shown if row["pareto"] or row["whole"] or row is alike]
    pick, proposed = (block.get(key) if isinstance(block.get(key), dict) else None for key in ("pick", "cascade"))
    return {
        "title": title,
        "plot": charts.draw_pareto(lists),
        "rows": front[:_MOST_SUBSETS],
        "all_rows": len(front),
        "members": lists["members"],
        "cascades": _choose_cascades(lists["cascades"], proposed),
        "all_cascades": len(lists["cascades"]),
        "tried": block.get("tried", len(subsets)),
        "alike": alike,
        "pick": pick and {**_UNSEARCHED, "nested_eer": None, **pick, "title": _name_system("subsets", pick)},
        "proposed": proposed and {**_UNSEARCHED, **proposed, "title": _name_system("cascades", proposed)},
    }


def _choose_cascades(cascades: list[dict], proposed: dict | None) -> list[dict]:
    """The cascades that none beats in both time and error, and the proposed one, the fastest first."""
    known = [row for row in cascades if row["milliseconds"] is not None and row["eer"] is not None]
    shown, best = [], math.inf
    for row in sorted(known, key=lambda row: (row["milliseconds"], row["eer"])):
        same = proposed and all(row.get(key) == proposed.get(key) for key in ("first", "rule", "low", "high"))
        ours = bool(same)
        if row["eer"] < best or ours:
            shown.append(row | {"proposed": ours})
        best = min(best, row["eer"])
    return shown[:_MOST_SUBSETS]


def _name_system(kind: str, row: dict) -> str:
    """A member, a subset, or a cascade's first members (recipe:fold, as a configuration has them), in words."""
    if kind == "members":
        return str(row.get("name", ""))
    names = [str(name) for name in row.get("first" if kind == "cascades" else "members") or []]
    if kind == "cascades":
        return ", ".join(recipe_fold(*parse_member_name(name)) for name in names)
    if row.get("folds"):
        recipes = ", ".join(dict.fromkeys(parse_member_name(name)[0] for name in names))
        return recipes + (" (one fold of each)" if row["folds"] == "one" else " (all folds)")
    return ", ".join(names)


def round_reach(intervals: list[list | None]) -> float:
    """The rate at which the pictures of a table end: the highest limit, rounded up to whole 10 %."""
    most = max((limits[1] for limits in intervals if limits and limits[1] is not None), default=1.0)
    return max(0.1, math.ceil(10 * most - 1e-9) / 10)
