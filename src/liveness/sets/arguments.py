"""The command line that the verbs on one data set have in common."""

import argparse


def set_parser(verb: str, doc: str | None, overrides: bool = True) -> argparse.ArgumentParser:
    """A parser for ``python -m liveness.<verb> [SET] [-o KEY=VALUE ...]``; ``doc``: the verb's docstring."""
    about = (doc or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m liveness.{verb}", description=about)
    parser.add_argument("set", nargs="?", default="train", metavar="SET", help="name of the set (default: train)")
    if overrides:
        parser.add_argument("-o", dest="override", nargs="+", action="extend", default=[], metavar="KEY=VALUE")
    return parser
