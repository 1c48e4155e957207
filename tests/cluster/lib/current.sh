# shellcheck shell=bash
# CLUSTER=current: a cluster that somebody else runs, reached by the current kubectl context and never started or stopped from here.

using_current_context() {
  case ${CLUSTER:-} in
    current) return 0 ;;
    '') return 1 ;;
    *) fail "CLUSTER is '$CLUSTER'; it can be 'current', or unset for the project's own cluster" ;;
  esac
}

current_up() {
  local context
  command -v kubectl >/dev/null || fail "CLUSTER=current needs kubectl on PATH"
  context=$(kubectl config current-context 2>/dev/null) || fail "CLUSTER=current, but kubectl has no current context"
  kubectl --request-timeout=10s get --raw /readyz >/dev/null || fail "CLUSTER=current, but kubectl cannot reach context '$context'"
  say "using the current kubectl context '$context'"
}

current_kubeconfig() {
  current_up
  echo "${KUBECONFIG:-$HOME/.kube/config}"
}

current_status() {
  current_up
  kubectl get nodes
}

current_down() {
  fail "CLUSTER=current is not this project's to take down"
}

# current_tools: kubectl and helm from the cache.
current_tools() {
  local directory
  require_go
  build_kubernetes
  build_helm
  directory=$CACHE_DIR/tools
  mkdir -p "$directory"
  ln --symbolic --force "${BUILT[kubernetes]}/kubectl" "${BUILT[helm]}/helm" "$directory/"
  echo "$directory"
}
