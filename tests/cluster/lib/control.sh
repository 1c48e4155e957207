# shellcheck shell=bash
# The control plane: etcd, API server, controllers and scheduler, on a machine of their own.

control_start_api() {
  control_start_etcd
  control_start_apiserver
}

# control_start_controllers: once the API server is ready; one that is refused first waits for seconds. They run alone: no lease.
control_start_controllers() {
  machine_run "$CONTROL" "${BUILT[kubernetes]}/kube-controller-manager" \
    --kubeconfig="$PKI_DIR/kube-controller-manager.kubeconfig" \
    --use-service-account-credentials \
    --service-account-private-key-file="$PKI_DIR/service-accounts.key" \
    --root-ca-file="$PKI_DIR/ca.crt" \
    --flex-volume-plugin-dir="$DATA_DIR/volume-plugins" \
    --leader-elect=false
  machine_run "$CONTROL" "${BUILT[kubernetes]}/kube-scheduler" \
    --kubeconfig="$PKI_DIR/kube-scheduler.kubeconfig" \
    --leader-elect=false
}

# The loopback address below is the machine's own: an etcd of the host on the same port is another one.
control_start_etcd() {
  machine_run "$CONTROL" etcd \
    --data-dir="$DATA_DIR/etcd" \
    --listen-client-urls=https://127.0.0.1:2379 --advertise-client-urls=https://127.0.0.1:2379 \
    --listen-peer-urls=http://127.0.0.1:2380 \
    --cert-file="$PKI_DIR/etcd.crt" --key-file="$PKI_DIR/etcd.key" \
    --client-cert-auth --trusted-ca-file="$PKI_DIR/ca.crt" \
    --unsafe-no-fsync
}

# --kubelet-preferred-address-types: without it, logs and exec would look up node names, which no name server knows.
control_start_apiserver() {
  machine_run "$CONTROL" "${BUILT[kubernetes]}/kube-apiserver" \
    --etcd-servers=https://127.0.0.1:2379 \
    --etcd-cafile="$PKI_DIR/ca.crt" --etcd-certfile="$PKI_DIR/kube-apiserver-client.crt" --etcd-keyfile="$PKI_DIR/kube-apiserver-client.key" \
    --bind-address="$CONTROL_ADDRESS" --advertise-address="$CONTROL_ADDRESS" --secure-port="$API_PORT" \
    --tls-cert-file="$PKI_DIR/kube-apiserver.crt" --tls-private-key-file="$PKI_DIR/kube-apiserver.key" \
    --client-ca-file="$PKI_DIR/ca.crt" \
    --kubelet-certificate-authority="$PKI_DIR/ca.crt" \
    --kubelet-client-certificate="$PKI_DIR/kube-apiserver-client.crt" --kubelet-client-key="$PKI_DIR/kube-apiserver-client.key" \
    --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file="$PKI_DIR/service-accounts.pub" \
    --service-account-signing-key-file="$PKI_DIR/service-accounts.key" \
    --service-cluster-ip-range="$SERVICE_RANGE" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --allow-privileged
}

control_daemons() { echo etcd kube-apiserver kube-controller-manager kube-scheduler; }

admin_kubectl() {
  (
    close_lock
    exec "$TOOLS_DIR/kubectl" --kubeconfig="$ADMIN_KUBECONFIG" --request-timeout=5s "$@"
  )
}

api_is_ready() { admin_kubectl get --raw /readyz; }
