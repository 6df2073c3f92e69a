"""Does everything in a prepared set fit together?

    python -m liveness.sanity_check [SET] [--fix]

Reads data/<set>/ and the set's videos and labels; compares videos, labels, frames, faces, tables
and folds. Prints each mismatch on stderr and the counts per split on stdout; exits 1 on any
mismatch. --fix rebuilds what is missing or damaged (as prepare.json says it was made) and checks
again; files that nothing names are reported and left alone, but for what killed runs left half-written.
"""

import argparse

from liveness.base.errors import UserError, run
from liveness.sets.arguments import set_parser
from liveness.sets.labels import set_name
from liveness.sets.sanity import check_and_fix


def main() -> int:
    args = parse()
    try:
        return 0 if check_and_fix(set_name(args.set), args.fix) else 1
    except BrokenPipeError:  # of our own output
        raise
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read or written ({error.strerror or error})") from error


def parse() -> argparse.Namespace:
    parser = set_parser("sanity_check", __doc__, overrides=False)
    parser.add_argument("--fix", action="store_true", help="rebuild what is missing or damaged, then check again")
    return parser.parse_args()


if __name__ == "__main__":
    run(main)
