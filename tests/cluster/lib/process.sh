# shellcheck shell=bash
# Which processes are the cluster's: those that carry its mark in their environment. No pid is ever written down, so none grows stale.

readonly MARK=PROXYPAIR_CLUSTER_PART

# marked_processes: lines "PID PART" for all processes with the mark. Children inherit it: a shim has the mark of its containerd.
marked_processes() {
  grep --text --null-data --with-filename --only-matching "^$MARK=.*" /proc/[0-9]*/environ 2>/dev/null |
    tr '\0' '\n' | sed -E "s|^/proc/([0-9]+)/environ:$MARK=|\1 |" || true
}

# process_of PART PROGRAM: the pid of the process that was started as PART and still is PROGRAM.
process_of() {
  local pid part name
  while read -r pid part; do
    [[ $part == "$1" ]] || continue
    name=$(cat "/proc/$pid/comm" 2>/dev/null) || continue
    # The kernel keeps 15 characters of a name.
    if [[ $name == "${2:0:15}" ]]; then
      echo "$pid"
      return
    fi
  done < <(marked_processes)
  return 1
}

# kill_everything: ends all marked processes and all that run in the machines' cgroups; succeeds when there are none left.
kill_everything() {
  local pids
  pids=$({
    marked_processes | cut -d ' ' -f 1
    cgroup_processes
  })
  [[ -n $pids ]] || return 0
  # SIGKILL for all: kube-apiserver takes a minute to obey SIGTERM while watches are open.
  xargs --no-run-if-empty kill -KILL <<<"$pids" 2>/dev/null || true
  return 1
}
