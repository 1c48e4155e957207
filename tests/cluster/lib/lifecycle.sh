# shellcheck shell=bash
# Up, down and status: the order of things, and what to do with the remains of a run that was killed.

cluster_up() {
  require_root
  take_lock
  if cluster_is_healthy; then
    say "the cluster runs already"
    if [[ $(cat "$STATE_DIR/complete") != "$(sources_fingerprint)" ]]; then
      say "note: it was started from other sources or settings; 'down' and 'up' would bring these"
    fi
    cluster_kubeconfig
    return
  fi
  install_packages
  build_all
  if anything_left; then
    step "removing what an earlier run left" remove_everything
  fi
  step "starting Kubernetes $KUBERNETES_VERSION with ${#NODE_NUMBERS[@]} nodes" start_everything
  cluster_kubeconfig
}

cluster_down() {
  require_root
  take_lock
  if anything_left; then
    step "taking the cluster down" remove_everything
  else
    say "there is no cluster"
  fi
}

cluster_kubeconfig() { echo "$ADMIN_KUBECONFIG"; }

# cluster_tools: kubectl and helm need no running cluster.
cluster_tools() {
  if [[ -x $TOOLS_DIR/kubectl && -x $TOOLS_DIR/helm ]]; then
    echo "$TOOLS_DIR"
  else
    current_tools
  fi
}

cluster_status() {
  if ! anything_left; then
    say "there is no cluster"
    return 1
  fi
  local machine daemon
  for machine in "${MACHINES[@]}"; do
    for daemon in $(daemons_of "$machine"); do
      printf '%-11s %-24s %s\n' "$machine" "$daemon" "$(process_of "$machine/$daemon" "$daemon" || echo 'does not run')"
    done
  done
  faults_in_force
  admin_kubectl get nodes
  admin_kubectl --namespace=kube-system get pods --output=wide
}

daemons_of() {
  if [[ $1 == "$CONTROL" ]]; then
    control_daemons
  else
    node_daemons
  fi
}

# cluster_is_healthy: undoes every fault first, as they are not what is asked for.
cluster_is_healthy() {
  local machine daemon
  [[ -s $STATE_DIR/complete ]] || return 1
  for machine in "${MACHINES[@]}"; do
    [[ -e /run/netns/$machine ]] || return 1
    for daemon in $(daemons_of "$machine"); do
      machine_has "$machine" "$daemon" || return 1
    done
  done
  restore_all
  api_is_ready >/dev/null 2>&1 || return 1
  nodes_are_ready && return 0
  say "not every node is ready, waiting for up to 30 s"
  admin_kubectl --request-timeout=0 wait --for=condition=Ready nodes --all --timeout=30s >/dev/null 2>&1
}

nodes_are_ready() {
  local ready
  ready=$(admin_kubectl get nodes --output='jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' | grep --count True)
  ((ready == ${#NODE_NUMBERS[@]}))
}

# sources_fingerprint: of all that decides how the cluster is made.
sources_fingerprint() {
  {
    echo "$KUBE_PROXY_MODE"
    (cd "$HERE" && find . -type f ! -name '*.md' -exec sha256sum {} + | sort)
  } | sha256sum
}

start_everything() {
  local machine
  mkdir -p "$STATE_DIR" "$TOOLS_DIR" "$DATA_DIR" "$LOG_DIR"
  remember_host
  ln -s "${BUILT[kubernetes]}/kubectl" "${BUILT[helm]}/helm" "$TOOLS_DIR/"
  # Three kubelets need more than the usual 128.
  sysctl --quiet --write fs.inotify.max_user_instances=8192
  image_of_program "${BUILT[pause]}/pause" "$PAUSE_IMAGE" "$DATA_DIR/pause.tar"
  image_of_program "${BUILT[coredns]}/coredns" "$COREDNS_IMAGE" "$DATA_DIR/coredns.tar"
  pki_create
  for machine in "${MACHINES[@]}"; do
    machine_create "$machine"
  done
  network_create_control
  control_start_api
  for_each_node "not every node could be prepared" node_prepare
  wait_until 60 "the API server" api_is_ready
  control_start_controllers
  for_each_node "not every node could be started" node_join
  addons_apply
  wait_for_nodes
  addons_wait
  sources_fingerprint >"$STATE_DIR/complete"
}

# wait_for_nodes: a kubelet registers some time after its start, and the controllers make the service account some time after theirs.
wait_for_nodes() {
  local number
  for number in "${NODE_NUMBERS[@]}"; do
    wait_until 60 "node$number" admin_kubectl get node "node$number"
  done
  admin_kubectl --request-timeout=0 wait --for=condition=Ready nodes --all --timeout=60s >/dev/null
  wait_until 30 "the default service account" admin_kubectl --namespace=default get serviceaccount default
}

# Settings of the host that the kubelet or this program writes.
readonly HOST_SETTINGS=(
  fs.inotify.max_user_instances
  vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes
)

# remember_host: what `down` has to put back, written down before it is changed.
remember_host() {
  local place
  sysctl --ignore "${HOST_SETTINGS[@]}" >"$STATE_DIR/sysctl"
  # `ip netns` makes /run/netns a mount of its own.
  mountpoint --quiet /run/netns || touch "$STATE_DIR/unmount-netns"
  for place in "${SHARED_PLACES[@]}" /run/netns; do
    [[ -d $place ]] || echo "$place"
  done >"$STATE_DIR/remove-directories"
  mkdir -p "${SHARED_PLACES[@]}"
}

# restore_host: leaves a directory that somebody else has begun to use.
restore_host() {
  if [[ -s $STATE_DIR/sysctl ]]; then
    sysctl --quiet --load="$STATE_DIR/sysctl"
  fi
  if [[ -e $STATE_DIR/unmount-netns && -z $(ls /run/netns) ]]; then
    umount /run/netns 2>/dev/null || true
  fi
  if [[ -s $STATE_DIR/remove-directories ]]; then
    xargs rmdir --ignore-fail-on-non-empty <"$STATE_DIR/remove-directories" 2>/dev/null || true
  fi
}

anything_left() {
  [[ -e $STATE_DIR || -e $DATA_DIR || -n $(marked_processes) || -n $(cgroups_left) ]] || network_left
}

# remove_everything: works on any part of a cluster, in any state.
remove_everything() {
  wait_until 20 "the end of all processes" kill_everything
  network_remove_all
  unmount_all
  wait_until 10 "the end of all cgroups" cgroup_remove_all
  restore_host
  rm -rf --one-file-system "$STATE_DIR" "$DATA_DIR"
}

# unmount_all: mounts belong to the machines and ended with them; these would be somebody's own.
unmount_all() {
  awk -v state="$STATE_DIR/" -v data="$DATA_DIR/" 'index($2, state) == 1 || index($2, data) == 1 { print $2 }' /proc/mounts |
    sort --reverse | xargs --no-run-if-empty umount --lazy
}
