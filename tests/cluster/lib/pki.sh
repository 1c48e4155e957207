# shellcheck shell=bash
# The certificate authority of one run of the cluster, what it signs, and the kubeconfigs made of that.

pki_create() {
  local number
  mkdir -p "$PKI_DIR"
  chmod 0700 "$PKI_DIR"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=proxypair-cluster \
    -keyout "$PKI_DIR/ca.key" -out "$PKI_DIR/ca.crt" 2>/dev/null
  openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out "$PKI_DIR/service-accounts.key" 2>/dev/null
  openssl pkey -in "$PKI_DIR/service-accounts.key" -pubout -out "$PKI_DIR/service-accounts.pub"

  pki_sign etcd /CN=etcd IP:127.0.0.1
  pki_sign kube-apiserver /CN=kube-apiserver \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:$CONTROL_ADDRESS,IP:$API_SERVICE_ADDRESS"
  # What the API server shows to etcd and to the kubelets.
  pki_sign kube-apiserver-client /O=system:masters/CN=kube-apiserver-client
  for number in "${NODE_NUMBERS[@]}"; do
    pki_sign "node$number" "/O=system:nodes/CN=system:node:node$number" "DNS:node$number,IP:$(node_address "$number")"
    pki_kubeconfig "node$number"
  done
  for component in kube-controller-manager kube-scheduler kube-proxy; do
    pki_sign "$component" "/CN=system:$component"
    pki_kubeconfig "$component"
  done
  pki_sign admin /O=system:masters/CN=admin
  pki_kubeconfig admin
  chmod 0600 "$PKI_DIR/admin.kubeconfig"
  mv "$PKI_DIR/admin.kubeconfig" "$ADMIN_KUBECONFIG"
}

# pki_sign NAME SUBJECT [ALTERNATIVE_NAMES]
pki_sign() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "$2" \
    -CA "$PKI_DIR/ca.crt" -CAkey "$PKI_DIR/ca.key" \
    -addext "subjectAltName=${3:-DNS:$1}" -addext basicConstraints=critical,CA:false \
    -addext extendedKeyUsage=serverAuth,clientAuth -addext keyUsage=critical,digitalSignature \
    -keyout "$PKI_DIR/$1.key" -out "$PKI_DIR/$1.crt" 2>/dev/null
}

# pki_kubeconfig NAME: NAME.kubeconfig with all keys inside.
pki_kubeconfig() {
  cat >"$PKI_DIR/$1.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: proxypair-cluster
contexts:
  - name: proxypair-cluster
    context: {cluster: proxypair-cluster, user: $1}
clusters:
  - name: proxypair-cluster
    cluster:
      server: https://$CONTROL_ADDRESS:$API_PORT
      certificate-authority-data: $(base64 --wrap=0 "$PKI_DIR/ca.crt")
users:
  - name: $1
    user:
      client-certificate-data: $(base64 --wrap=0 "$PKI_DIR/$1.crt")
      client-key-data: $(base64 --wrap=0 "$PKI_DIR/$1.key")
END
}
