# shellcheck shell=bash
# The programs that are compiled here and their cache: one directory per Go module, named by a hash of what makes it.

readonly BUILD_FLAGS=(-mod=readonly -trimpath -buildvcs=false)
readonly LDFLAGS="-s -w \
-X k8s.io/component-base/version.gitVersion=$KUBERNETES_VERSION \
-X k8s.io/component-base/version.gitMajor=1 \
-X k8s.io/component-base/version.gitMinor=35 \
-X helm.sh/helm/v4/internal/version.version=v4.3.1"

build_all() {
  require_go
  build_kubernetes
  build_helm
  build_coredns
  build_pause
}

build_kubernetes() {
  build_module kubernetes k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet,kubectl}
}
build_helm() { build_module helm helm.sh/helm/v4/cmd/helm; }
build_coredns() { build_module coredns .; }
build_pause() { build_module pause .; }

require_go() {
  command -v go >/dev/null || fail "Kubernetes is compiled from source: please install a Go toolchain (1.26 or newer) and put 'go' on PATH"
}

# built MODULE: the directory of its finished build, whether it exists yet or not.
built() {
  local key
  key=$(
    {
      go env GOVERSION GOOS GOARCH
      echo "${BUILD_FLAGS[*]} $LDFLAGS"
      cat "$HERE/$1"/*
    } | sha256sum
  )
  echo "$CACHE_DIR/$1-${key:0:16}"
}

# build_module MODULE PACKAGE...: compiles the commands of MODULE, unless that has been done.
build_module() {
  local module=$1 target
  shift
  target=$(built "$module")
  [[ -d $target ]] && return
  step "compiling $module into $target" compile_alone "$module" "$target" "$@"
}

# compile_alone: one build of a module at a time. A killed one leaves only a directory that the next one removes.
compile_alone() {
  local module=$1 target=$2 partial=$2.partial lock
  shift 2
  mkdir -p "$CACHE_DIR"
  exec {lock}>"$CACHE_DIR/$module.lock"
  flock "$lock"
  if [[ ! -d $target ]]; then
    rm -rf "$partial"
    mkdir "$partial"
    (cd "$HERE/$module" && CGO_ENABLED=0 go build "${BUILD_FLAGS[@]}" -ldflags "$LDFLAGS" -o "$partial/" "$@")
    mv --no-target-directory "$partial" "$target"
  fi
  exec {lock}>&-
}
