# shellcheck shell=bash
# Sourced by train.sh after common.sh: several members at once, one to a GPU or to a share of the CPU's cores.
#
#   spread MEMBERS LOGS ARGS…    MEMBERS: lines "recipe fold set"; LOGS: a folder; ARGS go to each train_member.sh
#
# Environment: SLOTS (how many at once; default: one for each GPU), and what common.sh reads.

[ -n "${BASH_VERSION:-}" ] || { echo "${0##*/}: use bash: bash $0" >&2; exit 2; }

declare -A running=() # slot -> process id
declare -A busy_with=() # slot -> member
failed=() stopped=0

# list_devices: print what CUDA_VISIBLE_DEVICES of each GPU would be, a line each.
list_devices() {
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | awk -v most="$1" '/^ *-1/ || NR > most { exit } NF { print $1 }'
  else
    seq 0 $(($1 - 1))
  fi
}

# start SLOT DEVICE LOGS RECIPE FOLD SET ARGS…: train_member.sh in the background, what it says in its own log.
start() {
  local slot=$1 device=$2 name=$4_fold$5 log=$3/$4_fold$5.log recipe=$4 fold=$5 data=$6
  shift 6
  printf '== %s: train_member.sh %s %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$recipe" "$fold" >>"$log"
  if [[ -n $device ]]; then
    NGPU=1 CUDA_VISIBLE_DEVICES=$device DATA=$data bash "$CODE/scripts/train_member.sh" "$recipe" "$fold" "$@" >>"$log" 2>&1 &
  else
    NGPU=0 DATA=$data bash "$CODE/scripts/train_member.sh" "$recipe" "$fold" "$@" >>"$log" 2>&1 &
  fi
  running[$slot]=$! busy_with[$slot]=$name
  ((stopped == 0)) || kill -TERM "${running[$slot]}" 2>/dev/null || true # the signal came before its number was noted
  printf '%s: started%s, log: %s\n' "$name" "${device:+ on GPU $device}" "$log"
}

# stop_all: hand SIGTERM on to every member that runs; no further one starts.
stop_all() {
  local process
  stopped=1
  for process in "${running[@]}"; do kill -TERM "$process" 2>/dev/null || true; done
}

# collect LOGS: of the members that have ended, say how, and free their slots.
collect() {
  local slot outcome name
  for slot in "${!running[@]}"; do
    ! kill -0 "${running[$slot]}" 2>/dev/null || continue
    outcome=0 name=${busy_with[$slot]}
    wait "${running[$slot]}" || outcome=$?
    unset "running[$slot]" "busy_with[$slot]"
    if ((outcome == 0)); then
      printf '%s: %s\n' "$name" "$(tail -n 1 "$1/$name.log")"
    elif ((outcome == 143 && stopped)); then
      printf '%s: stopped; the same command goes on with it\n' "$name"
    else
      printf '%s: failed (exit code %s): %s\n' "$name" "$outcome" "$(tail -n 1 "$1/$name.log")" >&2
      failed+=("$name (exit code $outcome, $1/$name.log)")
    fi
  done
}

# spread: 0 where every member is trained, 143 after SIGTERM or ctrl-C, else 1, naming the members that failed. A member
# that fails takes none with it. A signal goes on to all that run, and no further one starts; each has as long to save
# as it asks for or GRACE_SECONDS gives.
spread() {
  local lines=$1 logs=$2 count slots slot=0 devices=() waiting=() recipe fold data
  shift 2
  mapfile -t waiting <<<"$lines"
  count=$(gpus)
  ((count == 0)) || mapfile -t devices < <(list_devices "$count")
  count=${#devices[@]}
  slots=${SLOTS:-$count}
  [[ $slots =~ ^(0|[1-9][0-9]*)$ ]] || misuse "SLOTS=$slots: expected a number from 1"
  ((slots > 0)) || misuse "PARALLEL=members finds no GPU here; say how many members to train at once, as SLOTS=2"
  ((slots <= ${#waiting[@]})) || slots=${#waiting[@]}
  [[ -n ${OMP_NUM_THREADS:-} ]] || OMP_NUM_THREADS=$(share_cores "$slots")
  export OMP_NUM_THREADS LIVENESS_AT_ONCE=$slots # the members reckon with it where they share memory and the disk
  mkdir -p "$logs"
  printf '%s members, %s at once\n' "${#waiting[@]}" "$slots"

  trap stop_all TERM INT
  while ((${#running[@]})) || { ((stopped == 0)) && ((${#waiting[@]})); }; do
    for ((slot = 0; slot < slots && !stopped && ${#waiting[@]}; slot++)); do
      [[ -z ${running[$slot]:-} ]] || continue
      read -r recipe fold data <<<"${waiting[0]}"
      waiting=("${waiting[@]:1}")
      start "$slot" "${devices[slot % (count > 0 ? count : 1)]:-}" "$logs" "$recipe" "$fold" "$data" "$@"
    done
    wait -n 2>/dev/null || true # a member has ended, or a signal has come
    collect "$logs"
  done
  trap - TERM INT
  ((${#failed[@]} == 0)) || printf '%s: failed: %s\n' "$(basename -- "$SELF")" "${failed[@]}" >&2
  ((stopped == 0)) || return 143
  ((${#failed[@]} == 0))
}
