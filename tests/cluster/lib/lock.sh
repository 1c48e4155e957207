# shellcheck shell=bash
# Locks between runs of this program. A lock lasts as long as any process has its file open.

# lock_file VARIABLE FILE TITLE: sets VARIABLE to the descriptor; says that it waits for TITLE if it has to.
lock_file() {
  local -n descriptor=$1
  exec {descriptor}>"$2"
  flock --nonblock "$descriptor" || {
    say "$3 is at work, waiting for it ..."
    flock "$descriptor"
  }
}

# take_lock: one `up` or `down` at a time.
take_lock() { lock_file LOCK "$LOCK_FILE" "another 'up' or 'down'"; }

# close_lock: for subshells that start what may outlive this run; the lock would be theirs as well.
close_lock() {
  if [[ -n ${LOCK:-} ]]; then
    exec {LOCK}>&-
  fi
}
