"""The verbs of the program ``liveness``: one module of the package each, in the order in which they are used."""

# The line is what `liveness -h` says.
GROUPS = {
    "Data": {
        "download": "download a data set or weights, each file checked before it gets its name",
        "prepare": "videos of a set become frames, faces and tables in data/SET",
        "make_folds": "deal a prepared set into folds that share no known person and no near-duplicate",
        "sanity_check": "compare a prepared set with its videos and labels; --fix makes anew what is wrong",
        "dataset_page": "a page about a prepared set: what is in it, and which cues tell the labels",
        "contact_sheet": "a picture of what training does to a set's frames",
        "make_demo": "draw the demo's clips",
    },
    "Training": {
        "members": "list the members of an ensemble, or check that all can be trained",
        "find_lr": "learning-rate range test of a recipe",
        "train": "train one member, then score the fold that was held out",
        "tune": "search a recipe's hyperparameters, nested, in studies that several machines can join",
        "pseudo_label": "label a set without labels by members, for each fold by those that held it out",
        "soup": "average the weights of several members of one fold",
        "adapt": "adapt an ensemble to one camera by a few labelled clips, or say that it had better stay as it is",
        "convert": "turn published checkpoints into members",
        "check_gpu": "try what training and prediction need of this machine's GPUs",
    },
    "Evaluation": {
        "evaluate": "error of an ensemble with intervals, out of fold (writes its thresholds) or --on another set",
        "report": "the page about it",
        "review": "the report in a few lines of Markdown, compared with another one; tables for DVC",
        "compare": "one table of recipes or variants: cost, out-of-fold error, paired difference to the first",
        "search": "which members are worth their time: subsets and cascades",
        "shift": "how much worse an ensemble gets on stressed videos",
    },
    "Prediction": {
        "predict": "score videos",
        "bulk": "score the videos of a manifest on the machines of a Ray cluster",
        "export": "an ensemble as ONNX files",
        "serve": "answer clips over HTTP",
    },
}


def usage() -> str:
    """The text of ``liveness -h``."""
    width = max(len(verb) for verbs in GROUPS.values() for verb in verbs)
    lines = ["usage: liveness VERB ...        liveness VERB -h tells what a verb takes", ""]
    for title, verbs in GROUPS.items():
        lines += [f"{title}:", *(f"  {verb:{width}}  {line}" for verb, line in verbs.items()), ""]
    lines.append("raw/, data/, runs/, weights/ and result/ lie in LIVENESS_ROOT, the repository or the current folder.")
    return "\n".join(lines)
