# shellcheck shell=bash disable=SC2034
# Names, addresses and places of the cluster: every constant that more than one file reads.

readonly KUBERNETES_VERSION=v1.35.4
readonly KUBE_PROXY_MODE=${KUBE_PROXY_MODE:-nftables}

# Sockets and keys; short, because a unix socket's path ends at 107 characters.
readonly STATE_DIR=/run/proxypair-cluster
# What is large: etcd, images, volumes, logs. /run is memory on most machines.
readonly DATA_DIR=/var/lib/proxypair-cluster
readonly LOG_DIR=$DATA_DIR/log
readonly PKI_DIR=$STATE_DIR/pki
readonly TOOLS_DIR=$STATE_DIR/bin
readonly ADMIN_KUBECONFIG=$STATE_DIR/admin.kubeconfig
# Outside the two directories above, which come and go with the cluster.
readonly LOCK_FILE=/run/lock/proxypair-cluster.lock
readonly CACHE_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/proxypair/cluster

# The machines: one network, mount and process namespace each.
readonly CONTROL=pp-control
readonly NODE_NUMBERS=(1 2 3)
readonly MACHINES=("$CONTROL" pp-node1 pp-node2 pp-node3)

# One network for the machines, with a foot of the host in it so that kubectl reaches the API server.
readonly BRIDGE=pp0
readonly HOST_LINK=ppv0
readonly HOST_ADDRESS=10.99.0.254
readonly CONTROL_ADDRESS=10.99.0.1
readonly API_PORT=6443
readonly POD_RANGE=10.244.0.0/16
readonly SERVICE_RANGE=10.96.0.0/16
readonly API_SERVICE_ADDRESS=10.96.0.1
readonly DNS_SERVICE_ADDRESS=10.96.0.10

readonly PAUSE_IMAGE=proxypair.test/pause:cluster
readonly COREDNS_IMAGE=proxypair.test/coredns:cluster

node_machine() { echo "pp-node$1"; }
node_address() { echo "10.99.0.1$1"; }
node_pod_range() { echo "10.244.$1.0/24"; }
node_link() { echo "ppv$1"; }
node_state_dir() { echo "$STATE_DIR/node$1"; }
node_data_dir() { echo "$DATA_DIR/node$1"; }
node_containerd_socket() { echo "$STATE_DIR/node$1/containerd.sock"; }
