#!/usr/bin/env bash
# Two machines on one: train a tiny member on two nodes, and compare it with the same in one process.
#
#   bash scripts/test_two_nodes.sh            (as root, with the command ip: Debian's iproute2; 2 minutes)
#
# Each node is a network namespace with an address of its own and nothing but a virtual cable between them;
# the two share a workspace, as over a cluster's file system, and train with NNODES, NODE_RANK and
# MASTER_ADDR, one CPU process each. Prints one line when the weights agree to 1e-5; exit 1 if they do not,
# 3 where no namespaces can be made. Leaves nothing behind.
#
# Settings PYTHON

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }
# shellcheck source=scripts/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help) usage; exit ;;
  ?*) misuse "unexpected argument $1" ;;
esac

nodes=("liveness$$-0" "liveness$$-1")
addresses=(10.77.0.1 10.77.0.2)
started=()
work=$(mktemp -d)

clean_up() {
  # A failure on the way must not keep the rest from being removed.
  local pid node
  for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  for node in "${nodes[@]}"; do ip netns del "$node" 2>/dev/null || true; done
  rm -rf -- "$work"
}
trap clean_up EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

no_namespaces() {
  printf '%s: %s\n' "$(basename -- "$SELF")" "$1" >&2
  exit 3
}

# make_nodes: two namespaces, a cable between them, addresses on it.
make_nodes() {
  command -v ip >/dev/null || no_namespaces "the command ip is missing; apt-get install iproute2"
  local k
  for k in 0 1; do
    ip netns add "${nodes[k]}" 2>"$work/ip" || no_namespaces "ip netns add: $(tail -n 1 "$work/ip"); it takes root"
  done
  ip link add cable netns "${nodes[0]}" type veth peer name cable netns "${nodes[1]}" 2>"$work/ip" ||
    no_namespaces "ip link add: $(tail -n 1 "$work/ip")"
  for k in 0 1; do
    ip -n "${nodes[k]}" addr add "${addresses[k]}/24" dev cable
    ip -n "${nodes[k]}" link set lo up
    ip -n "${nodes[k]}" link set cable up
  done
}

options=('model.kwargs.depths=[1,1,1,1]' 'model.kwargs.dims=[8,16,16,16]' model.pretrained= view.size=32
  train.epochs=2 train.batch=6 train.workers=0)
train=(bash "$CODE/scripts/train_member.sh" convnext_xlarge 0 -o "${options[@]}")

# train_two: the member on both nodes. The first that fails ends the other, which would wait for it.
train_two() {
  local k failed=0
  for k in 0 1; do
    NNODES=2 NODE_RANK=$k MASTER_ADDR=${addresses[0]} GLOO_SOCKET_IFNAME=cable LIVENESS_ROOT=$work/two \
      ip netns exec "${nodes[k]}" "${train[@]}" >"$work/node$k.txt" 2>&1 &
    started+=($!)
  done
  wait -n "${started[@]}" || failed=1
  ((failed)) && kill -TERM "${started[@]}" 2>/dev/null
  for k in 0 1; do wait "${started[k]}" || failed=1; done
  ((!failed)) || {
    head -n 50 "$work"/node?.txt >&2
    fail "training on two nodes failed; above is what each of them said"
  }
}

# difference: print the largest relative difference between the weights of the two; fail above 1e-5.
difference() {
  "$PY" - "$work"/{one,two}/weights/tiny/convnext_xlarge_fold0.safetensors <<'PYTHON'
import sys

from safetensors.torch import load_file

one, two = (load_file(path) for path in sys.argv[1:])
assert set(one) == set(two)
worst = max(float((one[key] - two[key]).norm() / (one[key].norm() + 1e-4)) for key in one)
print(f"{worst:.1e}")
sys.exit(worst > 1e-5)
PYTHON
}

pick_python
export PYTHON=$PY NGPU=1 CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1 DATA=tiny
unset NNODES NODE_RANK MASTER_ADDR MASTER_PORT DRY_RUN
make_nodes
echo "preparing 19 clips, training in one process, then on two nodes"
LIVENESS_ROOT=$work/one "$PY" "$CODE/tests/tiny_set.py" tiny
LIVENESS_ROOT=$work/one bash "$CODE/prepare_data.sh" tiny -o folds.n=3 >"$work/prepare.txt" 2>&1 ||
  fail "preparing failed: $(tail -n 1 "$work/prepare.txt")"
mkdir -- "$work/two"
cp -r -- "$work/one/data" "$work/two/data"
LIVENESS_ROOT=$work/one "${train[@]}" >"$work/one.txt" 2>&1 || fail "one process failed: $(tail -n 1 "$work/one.txt")"
train_two
grep -q "2 x cpu" "$work/node0.txt" || fail "the two nodes did not train together: $(head -n 1 "$work/node0.txt")"
worst=$(difference) || fail "two nodes differ from one process by ${worst:-?} (relative; 1e-5 is allowed)"
echo "two nodes train what one process trains: weights agree to $worst (relative), 1e-5 is allowed"
