"""Answer clips over HTTP with an exported ensemble, and show a page to try it.

    python -m liveness.serve --exported DIR            then open http://127.0.0.1:8000/

Reads   DIR, which ``python -m liveness.export`` wrote; needs neither torch nor the rest of liveness[train].
Writes  nothing but temporary files, in a folder of its own that ends with it.

POST /score takes a clip or an image and answers with its row as JSON; /docs lists the rest (docs/service.md). With
the environment variable LIVENESS_TOKEN callers need that token; without it only this machine may call.

Exit code 0 after SIGTERM or ctrl-C, when what was accepted is answered.
"""

import argparse
from pathlib import Path

from liveness.base.errors import UserError, run
from liveness.service.settings import MIB, ServiceLimits, read_token


def parse() -> argparse.Namespace:
    usual = ServiceLimits()
    parser = argparse.ArgumentParser(prog="python -m liveness.serve", description="Answer clips over HTTP.")
    parser.add_argument("--exported", type=Path, required=True, metavar="DIR", help="an exported ensemble")
    parser.add_argument("--runtime", choices=("onnxruntime", "openvino"), default="onnxruntime")
    parser.add_argument("--point", default="eer", metavar="NAME", help="the operating point that decides")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="serve https with it, as phones ask for")
    parser.add_argument("--key", type=Path, metavar="PEM", help="the certificate's key")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--mib", type=float, default=usual.bytes / MIB, help="of a body (default: %(default)g)")
    limits.add_argument("--seconds", type=float, default=usual.seconds, help="of a clip (default: %(default)g)")
    limits.add_argument("--pixels", type=int, default=usual.pixels, help="of a frame (default: %(default)s)")
    limits.add_argument("--clips", type=int, default=usual.clips, help="worked on at a time (default: one per core)")
    limits.add_argument("--queue", type=int, default=usual.queue, help="clips that wait (default: %(default)s)")
    limits.add_argument("--decode-seconds", type=float, default=usual.decode_seconds, metavar="SECONDS",
                        help="a decoder's for one clip (default: %(default)g)")  # fmt: skip
    limits.add_argument("--upload-seconds", type=float, default=usual.upload_seconds, metavar="SECONDS",
                        help="a caller's for its body (default: %(default)g)")  # fmt: skip
    return parser.parse_args()


def main() -> int:
    args = parse()
    if not 1 / MIB <= args.mib < 1 << 20:
        raise UserError(f"--mib {args.mib:g}: expected more than 0, in MiB")
    if (args.certificate is None) != (args.key is None):
        raise UserError("--certificate and --key belong together")
    limits = ServiceLimits(
        int(args.mib * MIB), args.seconds, args.pixels, args.clips, args.queue, args.decode_seconds, args.upload_seconds
    )
    limits.check()
    token = read_token(args.host)
    try:
        from liveness.service.app import make_app
        from liveness.service.server import run_server
    except ModuleNotFoundError as error:
        raise UserError(
            f'the package {error.name} is missing; install: pip install "liveness[runtime,serve]"'
        ) from error
    from liveness.prediction.detector import LivenessDetector

    with LivenessDetector(args.exported, args.runtime, args.point) as detector:
        run_server(make_app(detector, limits, token), args.host, args.port, limits, args.certificate, args.key)
    return 0


if __name__ == "__main__":
    run(main)
