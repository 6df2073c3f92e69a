"""Score the videos of a manifest on the machines of a Ray cluster, or on all cores of this one.

    python -m liveness.bulk MANIFEST OUT --ensemble NAME [--address HOST:PORT]

Reads   MANIFEST: a table (.csv, .parquet) of paths or URIs (s3://, gs://, https://), or a folder, listed as it goes;
        weights/<set>/ under the same path on every machine. It needs liveness[bulk] (scripts/setup.sh --bulk).
Writes  OUT/part-<n>-<digest>.parquet (the key, then the columns of predictions.csv), OUT/summary.json, OUT/bulk.json;
        OUT may be s3:// or gs://.

Finished parts are never done again: the same command goes on after whatever stopped it. docs/bulk.md has the rest.
Exit code 0: a row for every row of the manifest. 130 and 143 after ctrl-C and SIGTERM.
"""

import argparse
from pathlib import Path

from liveness.base.errors import UserError, run
from liveness.base.files import plain_name
from liveness.bulk_scoring.manifest import open_manifest
from liveness.bulk_scoring.places import Store
from liveness.bulk_scoring.scoring import BulkOptions, score_manifest
from liveness.bulk_scoring.summary import SUMMARY, summary_text
from liveness.prediction.folder import BACKENDS, Options, choose_ensemble, describe_choice, tell_of_what_is_lost


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m liveness.bulk", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("manifest", metavar="MANIFEST", help="a .csv or .parquet file, or a folder of videos")
    add("output", metavar="OUT", help="a folder for the results")
    add("--ensemble", default="", metavar="NAME", help="a name in configs/ensemble (default: as predict takes it)")
    add("--data", default="", metavar="SET", help="weights/<SET> (default: the ensemble's)")
    add("--point", default="eer", metavar="NAME", help="the operating point that decides: eer, apcer5, ...")
    add("--exported", type=Path, metavar="DIR", help="score with this folder of liveness export, without torch")
    add("--backend", choices=tuple(BACKENDS), default="onnx", help="with --exported: the library")
    add("--address", default="", metavar="HOST:PORT", help="the head of a Ray cluster (default: this machine alone)")
    add("--column", default="", metavar="NAME", help="the paths' column (default: path, uri, filename or fname)")
    add("--key", default="", metavar="NAME", help="the keys' column (default: key, or the path itself)")
    add("--rows", type=int, default=500, metavar="N", help="rows of a part (default: %(default)s)")
    add("--images", action="store_true", help="of a folder, still images too")
    add("--again", action="store_true", help="do parts again that have crashed or unfetched videos")
    return parser.parse_args()


def main() -> int:
    args = parse()
    if args.data:
        plain_name(args.data, "DATA")
    if not 1 <= args.rows <= 1_000_000:
        raise UserError(f"--rows {args.rows}: expected 1 to 1000000")
    if args.exported and (args.ensemble or args.data):
        raise UserError("--exported DIR is the ensemble; leave out --ensemble and --data")
    try:
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError('the package pyarrow is missing; install: pip install "liveness[train,bulk]"') from error
    chosen = None if args.exported else choose_ensemble(args.ensemble, [], args.data)
    backend = args.backend if args.exported else "torch"
    described = describe_choice(chosen, Options(args.data, args.point, exported=args.exported, backend=backend))
    tell_of_what_is_lost(described, described.data, strict=False)
    manifest, store = open_manifest(args.manifest, args.column, args.key, args.images), Store(args.output)
    print(summary_text(score_manifest(manifest, store, described, BulkOptions(args.address, args.rows, args.again))))
    print(store.show(SUMMARY))
    return 0


if __name__ == "__main__":
    run(main)
