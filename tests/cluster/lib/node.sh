# shellcheck shell=bash
# A node: containerd, kubelet and kube-proxy on a machine, and their configuration.

# node_prepare N: all that does without the API server.
node_prepare() {
  network_attach_node "$1"
  mkdir -p "$(node_state_dir "$1")/cni" "$(node_data_dir "$1")"
  node_write_containerd_config "$1"
  node_write_cni_config "$1"
  node_write_kubelet_config "$1"
  machine_run "$(node_machine "$1")" containerd --config "$(node_state_dir "$1")/containerd.toml"
  wait_until 30 "containerd of node$1" node_ctr "$1" version
  node_ctr "$1" images import "$DATA_DIR/pause.tar" >/dev/null
  node_ctr "$1" images import "$DATA_DIR/coredns.tar" >/dev/null
}

# node_join N: the node registers itself a little later.
node_join() {
  node_start_kubelet "$1"
  node_start_proxy "$1"
}

node_start_kubelet() {
  machine_run "$(node_machine "$1")" "${BUILT[kubernetes]}/kubelet" \
    --config="$(node_state_dir "$1")/kubelet.yaml" \
    --kubeconfig="$PKI_DIR/node$1.kubeconfig" \
    --root-dir="$(node_data_dir "$1")/kubelet" \
    --hostname-override="node$1" --node-ip="$(node_address "$1")"
}

# conntrack's limits belong to the host and cannot be written from a node.
node_start_proxy() {
  machine_run "$(node_machine "$1")" "${BUILT[kubernetes]}/kube-proxy" \
    --kubeconfig="$PKI_DIR/kube-proxy.kubeconfig" \
    --hostname-override="node$1" \
    --proxy-mode="$KUBE_PROXY_MODE" --cluster-cidr="$POD_RANGE" \
    --conntrack-max-per-core=0
}

node_daemons() { echo containerd kubelet kube-proxy; }

node_ctr() {
  local number=$1
  shift
  ctr --address "$(node_containerd_socket "$number")" --namespace k8s.io "$@"
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower the score and every sandbox would die.
node_write_containerd_config() {
  local state data
  state=$(node_state_dir "$1")
  data=$(node_data_dir "$1")
  cat >"$state/containerd.toml" <<END
version = 2
root = "$data/containerd"
state = "$state/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "$(node_containerd_socket "$1")"

[ttrpc]
  address = "$state/containerd-ttrpc.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "$data/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$state/cni"
END
}

# ptp and not bridge: a reply between two pods of one bridge would pass by the node's address translation.
node_write_cni_config() {
  cat >"$(node_state_dir "$1")/cni/10-pods.conflist" <<END
{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {
        "type": "host-local",
        "dataDir": "$(node_state_dir "$1")/addresses",
        "ranges": [[{"subnet": "$(node_pod_range "$1")"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
END
}

# What differs from stock, apart from places: a crashed container comes back after 1 s at most, mounted Secrets are refreshed
# every 10 s instead of every minute, and a full disk of the host does not evict pods. Times that decide about a lost node are stock.
node_write_kubelet_config() {
  local state data
  state=$(node_state_dir "$1")
  data=$(node_data_dir "$1")
  cat >"$state/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $PKI_DIR/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $PKI_DIR/node$1.crt
tlsPrivateKeyFile: $PKI_DIR/node$1.key
containerRuntimeEndpoint: unix://$(node_containerd_socket "$1")
podLogsDir: $data/pod-logs
volumePluginDir: $data/volume-plugins
staticPodPath: ""
cgroupDriver: cgroupfs
cgroupRoot: /$(node_machine "$1")
failCgroupV1: false
failSwapOn: false
clusterDNS: [$DNS_SERVICE_ADDRESS]
clusterDomain: cluster.local
resolvConf: ""
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
syncFrequency: 10s
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
END
}
