# shellcheck shell=bash
# What a cluster has beyond Kubernetes itself: name resolution.

addons_apply() {
  sed -e "s|@IMAGE@|$COREDNS_IMAGE|" -e "s|@ADDRESS@|$DNS_SERVICE_ADDRESS|" "$HERE/manifests/coredns.yaml" |
    admin_kubectl apply --filename=- >/dev/null
}

addons_wait() {
  admin_kubectl --request-timeout=0 --namespace=kube-system rollout status daemonset/coredns --timeout=60s >/dev/null
}
