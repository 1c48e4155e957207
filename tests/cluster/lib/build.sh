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

# Where each module's finished build is; filled by build_module.
declare -A BUILT=()

# build_module MODULE PACKAGE...: compiles the commands of MODULE, unless that has been done.
build_module() {
  local module=$1 key
  shift
  key=$(build_key "$module")
  BUILT[$module]=$CACHE_DIR/$module-${key:0:16}
  if [[ ! -d ${BUILT[$module]} ]]; then
    step "compiling $module into ${BUILT[$module]}" compile_alone "$module" "${BUILT[$module]}" "$@"
  fi
}

build_key() {
  {
    go env GOVERSION GOOS GOARCH
    echo "${BUILD_FLAGS[*]} $LDFLAGS"
    cat "$HERE/$1"/*
  } | sha256sum
}

# go_packages MODULE PACKAGE...: how many packages make these; fetches their sources.
go_packages() {
  local module=$1
  shift
  go list -C "$HERE/$module" -mod=readonly -deps "$@" 2> >(follow '' modules '^go: downloading (.*)' '^$') | wc -l
}

# compile_alone: one build of a module at a time. A killed one leaves only a directory that the next one removes.
compile_alone() {
  local module=$1 target=$2 partial=$2.partial lock
  shift 2
  mkdir -p "$CACHE_DIR"
  lock_file lock "$CACHE_DIR/$module.lock" "another build of $module"
  if [[ ! -d $target ]]; then
    rm -rf "$partial"
    mkdir "$partial"
    (
      close_lock
      export CGO_ENABLED=0
      total=$(go_packages "$module" "$@")
      go build -C "$HERE/$module" -v "${BUILD_FLAGS[@]}" -ldflags "$LDFLAGS" -o "$partial/" "$@" 2>&1 |
        follow "$total" packages '^([^[:space:]]+)$' '^go: downloading '
    )
    mv --no-target-directory "$partial" "$target"
  fi
  exec {lock}>&-
}
