"""A local S3 server for tests; its environment is .venv-s3 (scripts/setup_dvc.sh --s3)."""

import contextlib
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

from liveness.base.files import CODE

SERVER = CODE / ".venv-s3/bin/moto_server"


@contextlib.contextmanager
def started_server(log: Path) -> Iterator[dict[str, str]]:
    """The environment variables of an S3 server on loopback that has the bucket ``store``; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with open(log, "w") as said:
        server = subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", str(port)], stdout=said, stderr=said)
        try:
            for _ in range(600):
                assert server.poll() is None
                with contextlib.suppress(URLError):
                    urllib.request.urlopen(urllib.request.Request(f"{address}/store", method="PUT"), timeout=60).close()
                    break
                time.sleep(0.2)
            keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
            yield {"AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true", **keys}
        finally:
            server.kill()
            server.wait()
