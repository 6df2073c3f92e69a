"""A container without a container engine: a command in namespaces, as a judge's machine would run it.

``Container`` describes what ``docker run`` would be given; ``run`` makes a root of its own (a tmpfs with
read-only views of this system's programs and libraries, of the interpreter's environment and of the code),
mounts what is asked for, cuts the network off, drops to the wanted user and runs the command there.
Needs root and the right to mount; ``reason_against`` says why it cannot be done here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from liveness.base.files import CODE

# Views of the system. On merged-/usr systems the others are links into usr.
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


# For bash -c, with the driver's name as $0: start Jupyter Lab and print what it answers, as JSON: the status
# without the token, with it, and the names of the files.
SERVE_AND_ASK = """
bash "/code/$0" >/tmp/jupyter.txt 2>&1 &
"$PYTHON" - <<'PYTHON'
import json, time, urllib.error, urllib.request

def ask(path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:9777{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""

for _ in range(240):
    try:
        ask("/api")
        break
    except OSError:
        time.sleep(0.5)
names = [entry["name"] for entry in json.loads(ask("/api/contents?token=zac2022")[1])["content"]]
print(json.dumps([ask("/api/contents")[0], ask("/lab?token=zac2022")[0], names]))
PYTHON
"""


@dataclass
class Container:
    """What ``docker run`` is given. ``mounts``: (folder here, path inside, read-only); ``user``: uid and gid."""

    code: Path
    mounts: list[tuple[Path, str, bool]] = field(default_factory=list)
    user: int = 0
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/code"

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess:
        """Run the command inside; exit code, stdout and stderr (text)."""
        outer = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--propagation"]
        return subprocess.run(
            [*outer, "private", "bash", "-c", self._script(list(command))],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def _script(self, command: list[str]) -> str:
        # The mount is seen in this namespace only, and gone with it.
        lines = ["set -eu", "new=/mnt", 'mount -t tmpfs -o mode=755 none "$new"', 'mkdir -m 1777 "$new/tmp"']
        for name in SYSTEM:
            if Path("/", name).is_symlink():
                lines.append(f'cp -d /{name} "$new/{name}"')
            elif Path("/", name).is_dir():
                lines += _bind(f"/{name}", f"/{name}", True)
        # The interpreter's environment, and the installation below it.
        for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
            if not Path(prefix).is_relative_to("/usr"):
                lines += _bind(prefix, prefix, True)
        lines += ['mkdir "$new/proc" "$new/dev"', 'mount -t proc none "$new/proc"']
        for name in DEVICES:
            lines.append(f'touch "$new/dev/{name}" && mount --bind /dev/{name} "$new/dev/{name}"')
        lines += ['mkdir "$new/dev/shm"', 'mount -t tmpfs -o size=64k,mode=1777 none "$new/dev/shm"']
        lines += ['ln -s /proc/self/fd "$new/dev/fd"', "ip link set lo up 2>/dev/null || true"]
        for source, path, read_only in [(self.code, "/code", True), *self.mounts]:
            lines += _bind(str(source), path, read_only)
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHON": sys.executable, **self.env}
        inside = f"cd {shlex.quote(self.workdir)} && exec {shlex.join(command)}"
        identity = ["--reuid", str(self.user), "--regid", str(self.user), "--clear-groups", "--no-new-privs"]
        words = ["env", "-i", *(f"{key}={value}" for key, value in environment.items())]
        words += ["setpriv", *identity, "bash", "-c", inside]
        lines.append(f'exec chroot "$new" {shlex.join(words)}')
        return "\n".join(lines)


def _bind(source: str, path: str, read_only: bool) -> list[str]:
    """Lines that show a folder of this system at a path of the new root."""
    at = f'"$new"{shlex.quote(path)}'
    lines = [f"mkdir -p {at}", f"mount --rbind {shlex.quote(source)} {at}"]
    if read_only:
        lines.append(f"mount -o remount,bind,ro {at}")
    return lines


def reason_against() -> str:
    """Why no such container can be made here; "" if it can."""
    if os.geteuid() != 0:
        return "mounting takes root"
    for tool in ("unshare", "setpriv", "chroot", "mount"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing"
    tried = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "bash", "-c", "mount -t tmpfs none /mnt"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return "" if tried.returncode == 0 else f"no mounts in namespaces: {tried.stderr.strip().splitlines()[-1]}"


def copied_into_the_image(name: str = "Dockerfile") -> list[tuple[Path, str]]:
    """(source here, path below /code) of every COPY line of a Dockerfile; its arguments have their defaults."""
    pairs = []
    text = (CODE / name).read_text(encoding="utf-8").replace("\\\n", " ")
    for argument, default in re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE):
        text = text.replace(f"${{{argument}}}", default)
    for line in text.splitlines():
        words = [word for word in line.split() if not word.startswith("--")]
        if words[:1] != ["COPY"]:
            continue
        *sources, target = words[1:]
        for source in sources:
            whole = target.rstrip("/") if (CODE / source).is_dir() else f"{target}{source}"
            pairs.append((CODE / source, whole.removeprefix("./")))
    return pairs


def code_tree(folder: Path, weights: Path) -> Path:
    """What /code would be in the image, with these weights: only what the Dockerfile copies."""
    for source, path in copied_into_the_image():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path == "weights":
            shutil.copytree(weights, target)
        elif source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return folder
