"""What the groups of a report are, in words: only where they are persons are they called so.

A grouping is a dictionary: kind ("subjects", "identities", "listed", "near_duplicates", "none",
"unknown"), source (the column or file that tells) and without (videos it says nothing of).
"""

UNKNOWN_GROUPS = {"kind": "unknown", "source": "", "without": 0}
FLATTERS = "if somebody appears in several folds, these figures flatter"


def are_persons(grouping: dict) -> bool:
    """Whether each group is a person: every video has a subject, or embeddings tell who it shows."""
    return grouping["kind"] in ("subjects", "identities") and not grouping["without"]


def noun(grouping: dict) -> str:
    """``person`` or ``group``."""
    return "person" if are_persons(grouping) else "group"


def count_groups(grouping: dict, groups: int, videos: int) -> str:
    """``12 persons``, ``12 groups``, or what there is where every video is its own group."""
    if groups == videos and not are_persons(grouping):
        return "every video its own group"
    return f"{groups} {noun(grouping)}" + ("" if groups == 1 else "s")


def sentence(grouping: dict) -> str:
    """What the groups are and who says so."""
    kind, source, without = grouping["kind"], grouping["source"], grouping["without"]
    most = f", but for {without} video{'s' * (without > 1)}" if without else ""
    return {
        "subjects": f"groups are persons, by the column {source}{most}",
        "identities": f"groups are persons, identities by embedding: as far as the faces in {source} tell{most}",
        "listed": f"groups are those listed in {source} and near-duplicates",
        "near_duplicates": "groups are near-duplicates only",
        "none": "no groups are known",
        "unknown": "what the groups are is not recorded",
    }[kind]


def warn_of_unknown_persons(grouping: dict) -> str:
    """What is not known of the persons, and what follows; "" where they are known."""
    if are_persons(grouping):
        return ""
    if grouping["kind"] in ("subjects", "identities"):
        return f"persons are not known of all videos: {FLATTERS}"
    if grouping["kind"] == "unknown":
        return f"not known whether groups are persons: {FLATTERS}"
    return f"persons are unknown: {FLATTERS}"
