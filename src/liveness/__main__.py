"""The program ``liveness VERB ...``; ``python -m liveness.<verb>`` is the same. ``liveness -h`` lists the verbs."""

import runpy
import sys

from liveness import __version__
from liveness.base.errors import UserError, run
from liveness.base.verbs import GROUPS, usage


def main() -> None:
    """Run the verb that the command line names; the process ends with the verb's own exit code."""
    run(_run_verb)


def _run_verb() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(usage())
        return 0 if len(sys.argv) > 1 else 2
    if sys.argv[1] in ("-V", "--version"):
        print(__version__)
        return 0
    verb = sys.argv[1].replace("-", "_")
    if not any(verb in verbs for verbs in GROUPS.values()):
        print(f"error: no verb {sys.argv[1]!r}; liveness -h lists them", file=sys.stderr)
        return 2
    sys.argv = [f"liveness {verb}", *sys.argv[2:]]
    try:
        runpy.run_module(f"liveness.{verb}", run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "liveness":
            raise
        missing = f'the package {error.name} is missing; install: pip install "liveness[train]"'
        raise UserError(f"{verb}: {missing}") from error
    return 0


if __name__ == "__main__":
    main()
