# shellcheck shell=bash
# The cgroups of the machines, on cgroup v1 and v2: made before a machine starts, removed after it has ended.

# Ahead of a compiler that runs beside the tests: stock is 1024 (v1) and 100 (v2).
readonly CPU_SHARES_V1=8192 CPU_WEIGHT_V2=800

# cgroup_mounts: one line per hierarchy that the kubelet will use. A hybrid machine counts as v1, as it does for the kubelet.
cgroup_mounts() {
  if [[ $(stat --file-system --format=%T /sys/fs/cgroup) == cgroup2fs ]]; then
    echo /sys/fs/cgroup
  else
    awk '$3 == "cgroup" && $2 ~ "^/sys/fs/cgroup/" { print $2 }' /proc/mounts
  fi
}

# cgroup_create MACHINE: MACHINE/own is for the machine's daemons; the kubelet makes the rest beside it.
cgroup_create() {
  local mount
  for mount in $(cgroup_mounts); do
    if [[ $mount == /sys/fs/cgroup ]]; then
      cgroup_delegate_v2 "$mount"
      mkdir -p "$mount/$1"
      cgroup_delegate_v2 "$mount/$1"
      write_if_there "$CPU_WEIGHT_V2" "$mount/$1/cpu.weight"
      mkdir -p "$mount/$1/own"
    else
      mkdir -p "$mount/$1/own"
      # An empty cpuset takes no process.
      cgroup_fill_cpuset "$mount" "$mount/$1"
      cgroup_fill_cpuset "$mount" "$mount/$1/own"
      write_if_there "$CPU_SHARES_V1" "$mount/$1/cpu.shares"
    fi
  done
}

cgroup_delegate_v2() {
  local controller
  for controller in $(<"$1/cgroup.controllers"); do
    # Some (rdma, misc) may refuse; the kubelet says which it misses.
    echo "+$controller" 2>/dev/null >"$1/cgroup.subtree_control" || true
  done
}

cgroup_fill_cpuset() {
  local file
  for file in cpuset.cpus cpuset.mems; do
    if [[ -e $1/$file ]]; then
      cat "$1/$file" >"$2/$file"
    fi
  done
}

write_if_there() {
  if [[ -e $2 ]]; then
    echo "$1" >"$2"
  fi
}

# cgroup_join MACHINE: moves the calling (sub)shell, so that the session that started the cluster does not own it.
cgroup_join() {
  local mount
  for mount in $(cgroup_mounts); do
    echo "$BASHPID" >"$mount/$1/own/cgroup.procs"
  done
}

# cgroups_left: the cgroups of all machines, innermost first. On a hybrid machine runc uses the v2 hierarchy as well.
cgroups_left() {
  local mount machine
  while read -r mount; do
    for machine in "${MACHINES[@]}"; do
      if [[ -d $mount/$machine ]]; then
        find "$mount/$machine" -depth -type d
      fi
    done
  done < <(awk '$3 ~ "^cgroup" && $2 ~ "^/sys/fs/cgroup" { print $2 }' /proc/mounts)
}

# cgroup_processes: all that runs in the machines' cgroups.
cgroup_processes() {
  cgroups_left | sed 's|$|/cgroup.procs|' | xargs --no-run-if-empty cat 2>/dev/null | sort --unique || true
}

# cgroup_remove_all: succeeds when none is left; a process that is still dying makes it fail for a moment.
cgroup_remove_all() {
  cgroups_left | xargs --no-run-if-empty rmdir
}
