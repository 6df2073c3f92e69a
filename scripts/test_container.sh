#!/usr/bin/env bash
# Build the image without a Docker daemon and try it as a judge would, with the network cut off.
#
#   bash scripts/test_container.sh              (as root; apt-get install buildah debootstrap; 3 minutes)
#
# Makes a Debian base with debootstrap, trains a small ensemble for weights/, builds the Dockerfile on the
# base with buildah, and runs the image: the layouts of /data, a result folder as Docker makes it, another
# user, Jupyter Lab, the notebook. The submission must be the one that predict.sh gives outside.
#
# To be quick, the packages of the interpreter at hand (Python 3.11, as the base's) are mounted while building
# and running: pip finds every pinned version there and installs nothing, and the build too has no network.
#
# Settings PYTHON, BASE (keep the base in this folder, and use it when it is there), TMPDIR
# Exit 1: something is wrong with the image; 3: it cannot be tried here. Leaves nothing but BASE behind.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  ?*) misuse "unexpected argument $1" ;;
esac

pick_python
export PYTHON=$PY
unset ENSEMBLE DATA NGPU DRY_RUN
work=$(mktemp -d)
base=${BASE:-$work/base}
engine=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)

clean_up() {
  "${engine[@]}" umount --all >/dev/null 2>&1 || true
  rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

cannot() {
  printf '%s: %s\n' "$(basename -- "$SELF")" "$1" >&2
  exit 3
}

say() { printf '%-58s %s\n' "$1" "${2:-ok}"; }

# quietly LOG COMMAND…: run it; on failure show the end of what it said.
quietly() {
  local log=$work/$1.txt
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    fail "this failed: ${*:0:6} ..."
  }
}

# offline COMMAND…: without any network device but loopback.
offline() { unshare --net bash -c 'ip link set lo up 2>/dev/null || true; exec "$@"' offline "$@"; }

check_machine() {
  ((EUID == 0)) || cannot "it takes root"
  local tool
  for tool in buildah debootstrap unshare; do
    command -v "$tool" >/dev/null || cannot "the command $tool is missing; apt-get install buildah debootstrap"
  done
  unshare --net --mount mount -t tmpfs none /mnt 2>"$work/why" || cannot "no namespaces: $(tail -n 1 "$work/why")"
  [[ $("$PY" -c 'import sys; print(*sys.version_info[:2])') == "3 11" ]] ||
    cannot "$PY is not Python 3.11, as the base's"
}

# mount_environment: where the packages of the interpreter at hand, and Jupyter's files beside them, go in the image.
mount_environment() {
  local packages prefix
  packages=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  prefix=$("$PY" -c 'import sys; print(sys.prefix)')
  environment=(-v "$packages:/opt/environment:ro" -v "$prefix/share/jupyter:/usr/local/share/jupyter:ro"
    -v "$prefix/etc/jupyter:/usr/local/etc/jupyter:ro")
}

# make_base: a small Debian with Python 3.11 as `python`, as an image named base.
make_base() {
  if [[ ! -e $base/usr/bin/python3.11 ]]; then
    quietly debootstrap debootstrap --variant=minbase --include=python3.11 bookworm "$base"
  fi
  ln -sf /usr/bin/python3.11 "$base/usr/local/bin/python"
  rm -f "$base/usr/lib/python3.11/EXTERNALLY-MANAGED"
  mkdir -p "$base/usr/local/lib/python3.11/dist-packages"
  echo /opt/environment >"$base/usr/local/lib/python3.11/dist-packages/environment.pth"
  local container
  container=$("${engine[@]}" from scratch)
  quietly base "${engine[@]}" copy "$container" "$base" /
  quietly base "${engine[@]}" commit --rm "$container" base
}

# make_context: the repository as it would be built, with small trained weights, and with what must stay out.
make_context() {
  LIVENESS_ROOT=$work/tiny quietly weights "$PY" "$CODE/tests/tiny_ensemble.py"
  LIVENESS_ROOT=$work/tiny quietly expected bash "$CODE/predict.sh" "$work/tiny/clips" "$work/expected"
  mkdir -p "$work/context"
  tar -C "$CODE" --exclude=./.git --exclude=./.venv --exclude=./raw --exclude=./data --exclude=./runs \
    --exclude=./result --exclude=./weights --exclude=__pycache__ -cf - . | tar -C "$work/context" -xf -
  cp -r "$work/tiny/weights" "$work/context/weights"
  mkdir -p "$work/context/raw/train" "$work/context/.git"
  touch "$work/context/raw/train/secret.mp4" "$work/context/.git/secret" "$work/context/weights/secret.pth"
}

build() {
  quietly build offline "${engine[@]}" build --isolation chroot "${environment[@]}" \
    --build-arg PYTHON_IMAGE=localhost/base -t liveness "$work/context"
  container=$("${engine[@]}" from liveness)
  root=$("${engine[@]}" mount "$container")
}

# inside NAME [-v … | --user …]… -- COMMAND…: run a command in the image, offline; its output is in NAME.txt.
inside() {
  local name=$1
  shift
  offline "${engine[@]}" run --isolation chroot "${environment[@]}" "$@" >"$work/$name.txt" 2>&1
}

# same NAME FILE: the file has the bytes of the submission made outside.
same() {
  cmp -s "$2" "$work/expected/submission.csv" || {
    tail -n 20 "$work/$1.txt" >&2
    fail "$1: $2 is not the submission that predict.sh gives outside"
  }
}

# judged NAME DATA RESULT [OPTIONS…] -- COMMAND…: mount the clips and a result folder, run, compare.
judged() {
  local name=$1 data=$2 result=$3 out=$work/out-$1 uid=0
  shift 3
  rm -rf "$root"/{data,result} "$root"/code/{data,result} # where an earlier run had its mounts
  mkdir -m 755 "$out"
  [[ $1 != --user ]] || uid=${2%:*}
  chown "$uid" "$out"
  inside "$name" -v "$data:ro" -v "$out:$result" "$@" || {
    tail -n 20 "$work/$name.txt" >&2
    fail "$name: predict.sh failed in the image"
  }
  same "$name" "$out/submission.csv"
}

try_layouts() {
  local clips=$work/tiny/clips command
  mkdir -p "$work/sets/private_test" && cp -r "$clips" "$work/sets/private_test/videos"
  mapfile -t command < <(
    "${engine[@]}" inspect --type image --format '{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' liveness | sed '/^$/d'
  )
  [[ ${command[*]} == "/bin/bash /code/predict.sh" ]] || fail "the default command is ${command[*]}"
  judged default "$clips:/data" /result "$container" -- "${command[@]}"
  [[ $(grep -c -e '^load time: ' -e '^prediction time: ' "$work/default.txt") == 2 ]] ||
    fail "no load and prediction time on stdout"
  say "default command, root, /data, a result folder of Docker's" "$(grep -o '^load time: .*' "$work/default.txt")"
  judged sets "$work/sets:/data" /result --user 47110:47110 "$container" -- bash -c 'unset HOME; bash predict.sh'
  say "user 47110, no home, /data/private_test/videos"
  judged code "$clips:/code/data" /code/result "$container" -- /bin/bash predict.sh
  say "/code/data and /code/result"
  rm -rf "$root"/{data,result} "$root"/code/{data,result}
  inside absent -v "$clips:/data:ro" "$container" -- /bin/bash /code/predict.sh || fail "an absent /result failed"
  same absent "$root/result/submission.csv"
  say "an absent /result"
}

try_notebook() {
  local out=$work/out-notebook
  mkdir -m 755 "$out" && chown 47110 "$out"
  inside notebook -v "$work/tiny/clips:/data:ro" -v "$out:/result" --user 47110:47110 "$container" -- python -m \
    nbconvert --to notebook --execute --output-dir /tmp predict_notebook.ipynb || {
    tail -n 20 "$work/notebook.txt" >&2
    fail "the notebook failed in the image"
  }
  same notebook "$out/jupyter_submission.csv"
  [[ $(head -n 1 "$out/time_submission.csv") == fname,time ]] || fail "time_submission.csv has another header"
  say "predict_notebook.ipynb, user 47110: the submission's bytes"
  # shellcheck disable=SC2016  # for the shell inside
  inside jupyter --user 47110:47110 "$container" -- bash -c '
    bash /code/start_jupyter.sh >/tmp/jupyter.txt 2>&1 & server=$!
    python - <<PYTHON
import time, urllib.error, urllib.request
def ask(path):
    try:
        return urllib.request.urlopen("http://127.0.0.1:9777" + path, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
for _ in range(120):
    try:
        ask("/api")
        break
    except OSError:
        time.sleep(0.5)
codes = ask("/api/contents"), ask("/api/contents/predict_notebook.ipynb?token=zac2022")
print(codes)
raise SystemExit(codes != (403, 200))
PYTHON
    code=$?; kill $server; wait $server; exit $code' || {
    tail -n 20 "$work/jupyter.txt" >&2
    fail "Jupyter Lab did not answer in the image"
  }
  say "start_jupyter.sh on port 9777, with the token only"
}

check_content() {
  local odd
  odd=$(find "$root/code" -name '*secret*' -o -name '__pycache__' -o -name '.git' | head -n 3)
  [[ -z $odd ]] || fail "in the image, and should not be: $odd"
  say "nothing in /code that .dockerignore names" "$(du -sh "$root" | cut -f1) in all"
}

check_machine
mount_environment
start=$SECONDS
make_base
say "base: debootstrap, $(<"$base/etc/debian_version")" "$((SECONDS - start)) s"
start=$SECONDS
make_context
say "weights: a small ensemble, trained outside" "$((SECONDS - start)) s"
start=$SECONDS
build
say "build: $(buildah --version)" "$((SECONDS - start)) s"
check_content
try_layouts
try_notebook
echo "the image keeps the judging container's contract"
