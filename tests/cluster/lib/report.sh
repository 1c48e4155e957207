# shellcheck shell=bash
# What a user reads while the cluster works: progress and errors on standard error, results on standard output.

say() { echo "cluster: $*" >&2; }

fail() {
  say "error: $*"
  exit 1
}

# step TITLE COMMAND...: a line when COMMAND begins, a line with its time when it has ended.
step() {
  local title=$1 began=$EPOCHREALTIME
  shift
  say "$title ..."
  "$@"
  say "$title: $(seconds_since "$began") s"
}

# seconds_since EPOCHREALTIME: with one decimal.
seconds_since() {
  local tenths=$(((${EPOCHREALTIME/./} - ${1/./}) / 100000))
  echo "$((tenths / 10)).$((tenths % 10))"
}

# follow TOTAL UNITS IS_UNIT IS_NOISE: reads what a compiler says and passes it on, but for the lines that match one of the two expressions. In
# place of those that match the first it says every 15 s how many there were, of TOTAL if that is known.
follow() {
  local total=$1 units=$2 is_unit=$3 is_noise=$4 count=0 newest='' line status due=$((SECONDS + 15))
  while true; do
    status=0
    IFS= read -r -t 5 line || status=$?
    if ((status > 128)); then
      : # nothing came in 5 s
    elif ((status > 0)); then
      return
    elif [[ $line =~ $is_unit ]]; then
      count=$((count + 1)) newest=${BASH_REMATCH[1]}
    elif [[ ! $line =~ $is_noise ]]; then
      echo "$line" >&2
    fi
    if ((SECONDS >= due && count > 0)); then
      say "  $count ${total:+of $total }$units, the newest $newest"
      due=$((SECONDS + 15))
    fi
  done
}

# wait_until SECONDS TITLE COMMAND...: repeats COMMAND until it succeeds; fails with TITLE when the time is over.
wait_until() {
  local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000)) title=$2
  local seconds=$1
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((${EPOCHREALTIME/./} < deadline)) || fail "after $seconds s still not there: $title (logs: $LOG_DIR)"
    sleep 0.1
  done
}

# for_each_node TITLE COMMAND ARGUMENT...: runs COMMAND N ARGUMENT... for all nodes at once; fails with TITLE if one fails.
for_each_node() {
  local title=$1 number job jobs=() failed=0
  shift
  for number in "${NODE_NUMBERS[@]}"; do
    "$1" "$number" "${@:2}" &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do
    wait "$job" || failed=1
  done
  ((failed == 0)) || fail "$title"
}
