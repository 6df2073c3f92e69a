#!/usr/bin/env bash
# Run a command beside a bucket: restore what an earlier machine left there, run, and keep the bucket up to date.
#
#   bash scripts/with_bucket.sh s3://BUCKET/PREFIX bash train.sh zalo2022
#
# Restores and keeps runs/, weights/<set>/ and result/. Every EVERY seconds, and when the command has ended, what is new goes
# to the bucket. So a machine that is taken away costs what was trained since then; after SIGTERM the command first saves
# its current step (GRACE_SECONDS says how long that and the last copy may take), and that goes to the bucket too.
# Settings EVERY (default 120), AWS (the aws command; default: that of .venv-s3, else of the PATH), and those of aws itself
#          (credentials, AWS_ENDPOINT_URL)
# Exit code: the command's; 1 where its results could not be brought to the bucket

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  s3://?*) bucket=${1%/} ;;
  *) misuse "expected s3://BUCKET/PREFIX and a command" ;;
esac
shift
[[ $# -gt 0 ]] || misuse "expected a command after $bucket"
every=${EVERY:-120}
[[ $every =~ ^[1-9][0-9]*$ ]] || misuse "EVERY=$every: expected seconds, as 120"
if [[ -z ${AWS:-} ]]; then
  AWS=$CODE/.venv-s3/bin/aws
  [[ -x $AWS ]] || AWS=$(command -v aws) || fail "no aws command; install it (pip install awscli), or name it: AWS=/path/to/aws"
fi

folders=(runs weights result)
snapshot=$ROOT/.bucket/snapshot # hard links beside the files: no copy, and the same files while others take their place
restored=$ROOT/.bucket/restored # the bucket that this machine has begun with

# restore: once on a machine. What it has made since then is newer than the bucket, and aws would overwrite it.
restore() {
  local folder
  mkdir -p "$snapshot"
  touch "$snapshot/file"
  ln -f "$snapshot/file" "$snapshot/link" || fail "$ROOT: its file system has no hard links, which copying to the bucket needs"
  [[ ! -e $restored || $(<"$restored") != "$bucket" ]] || return 0
  for folder in "${folders[@]}"; do
    "$AWS" s3 sync --only-show-errors "$bucket/$folder" "$ROOT/$folder" || return 1
  done
  echo "$bucket" >"$restored"
}

# save: bring what is new to the bucket. aws opens a large file once for each part, and last.pt may be replaced in between;
# of the snapshot every file stays what it was.
save() {
  local folder
  rm -rf "$snapshot"
  mkdir -p "$snapshot"
  for folder in "${folders[@]}"; do
    [[ -d $ROOT/$folder ]] || continue
    # A file may go meanwhile; anything else is told.
    { LC_ALL=C cp -al "$ROOT/$folder" "$snapshot/$folder" 2>&1 || true; } | grep -v 'No such file or directory' >&2 || true
  done
  "$AWS" s3 sync --only-show-errors --exclude '*.aside-*' --exclude '*/lock' --exclude 'weights/*.pth' "$snapshot" "$bucket" ||
    return 1
  rm -rf "$snapshot"
}

# await PROCESS: until it has ended, however many signals come; gives its exit code.
await() {
  local outcome=0
  while :; do
    outcome=0
    wait "$1" || outcome=$?
    kill -0 "$1" 2>/dev/null || return "$outcome"
  done
}

restore || fail "$bucket could not be read; the lines above say why"
"$@" &
child=$!
trap 'kill -TERM "$child" 2>/dev/null || true' TERM INT
while kill -0 "$child" 2>/dev/null; do
  sleep "$every" &
  timer=$!
  wait -n "$child" "$timer" 2>/dev/null || true
  kill "$timer" 2>/dev/null || true
  kill -0 "$child" 2>/dev/null || break
  save &
  await $! || echo "with_bucket.sh: $bucket could not be brought up to date; tried again in $every s" >&2
done
code=0
await "$child" || code=$?
save &
if ! await $!; then
  echo "with_bucket.sh: the last results could not be brought to $bucket; they lie in $ROOT" >&2
  ((code != 0)) || code=1
fi
exit "$code"
