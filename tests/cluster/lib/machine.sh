# shellcheck shell=bash
# A machine: a network, mount and process namespace behind one init. When the init dies, the kernel ends every process and
# drops every mount of that machine, whatever state they were in.

machine_create() {
  local machine=$1
  cgroup_create "$machine"
  ip netns add "$machine"
  ip -n "$machine" link set lo up
  machine_boot "$machine"
  wait_until 10 "$machine's init" machine_init "$machine"
  machine_hide_host "$machine"
}

# machine_boot: starts the init, which only sleeps and reaps.
machine_boot() {
  (
    cgroup_join "$1"
    daemonize
    exec setsid nsenter --net="/run/netns/$1" env "$MARK=$1/init" \
      unshare --mount --propagation slave --pid --fork --kill-child --mount-proc "${BUILT[pause]}/pause" \
      </dev/null >"$LOG_DIR/$1-init.log" 2>&1
  ) &
}

machine_init() { process_of "$1/init" pause; }

# machine_hide_host: programs that write to fixed places of the host get a place of their own instead.
machine_hide_host() {
  local machine=$1 init place
  init=$(machine_init "$machine")
  for place in "${SHARED_PLACES[@]}"; do
    mkdir -p "$DATA_DIR/$machine$place"
    nsenter --target "$init" --mount mount --bind "$DATA_DIR/$machine$place" "$place"
  done
  # Volumes with mount propagation ask for it.
  nsenter --target "$init" --mount mount --make-rshared /
}

# Links to logs; sockets of device plugins; shims and runc; results of the network plugins.
readonly SHARED_PLACES=(/var/log /var/lib/kubelet /run/containerd /var/lib/cni)

# machine_run MACHINE PROGRAM ARGUMENT...: starts a daemon inside, with its output in the log directory.
machine_run() {
  local machine=$1 program=$2 init part
  shift 2
  part=$machine/$(basename "$program")
  init=$(machine_init "$machine")
  (
    cgroup_join "$machine"
    daemonize
    exec setsid nsenter --target "$init" --mount --net --pid env "$MARK=$part" "$program" "$@" \
      </dev/null >"$LOG_DIR/${part/\//-}.log" 2>&1
  ) &
}

# daemonize: makes the calling subshell owe nothing to its parent. A caller's lock or pipe would otherwise be held as long as the
# cluster runs; Containers inherit the limit of open files, which is that of
# containerd under systemd: few, unless a program asks for more.
daemonize() {
  local file descriptor
  for file in "/proc/$BASHPID/fd/"*; do
    descriptor=${file##*/}
    if ((descriptor > 2 && descriptor != 255)); then
      exec {descriptor}>&-
    fi
  done
  ulimit -S -n 1024
  cd /
}

# machine_has MACHINE PROGRAM: whether that daemon runs.
machine_has() { process_of "$1/$2" "$2" >/dev/null; }
