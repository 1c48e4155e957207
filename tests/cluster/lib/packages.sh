# shellcheck shell=bash
# The Debian packages that the cluster and the tests on it need.

# A file that shows that a package is there, and the package. What is there already is left alone, however it came.
readonly NEEDED=(
  etcd:etcd-server containerd:containerd ctr:containerd runc:runc /usr/lib/cni/ptp:containernetworking-plugins
  nft:nftables iptables:iptables conntrack:conntrack ip:iproute2 ethtool:ethtool socat:socat ipset:ipset
  openssl:openssl jq:jq nsenter:util-linux unshare:util-linux setsid:util-linux sysctl:procps
  buildah:buildah tsql:freetds-bin shellcheck:shellcheck
  javac:default-jdk-headless mvn:maven python3:python3 c++:g++
)

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]} > 0)) || return 0
  require_root
  command -v apt-get >/dev/null || fail "this machine lacks ${missing[*]} (Debian's package names) and has no apt-get: please install them"
  step "installing ${missing[*]}" apt_install "${missing[@]}"
}

require_root() {
  ((EUID == 0)) || fail "network namespaces, mounts and cgroups need root rights: please run this as root"
}

missing_packages() {
  local entry
  for entry in "${NEEDED[@]}"; do
    command -v "${entry%%:*}" >/dev/null || echo "${entry#*:}"
  done | sort --unique
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

apt_install() {
  local output
  # The package lists of a fresh machine are empty or old: they are fetched only if it does not work without. The same goes for
  # the state of dpkg after a run that was killed.
  output=$(apt_get_install "$@" 2>&1) && return
  output=$({ dpkg --configure --pending && apt-get update --quiet=2 && apt_get_install "$@"; } 2>&1) && return
  tail -n 20 <<<"$output" >&2
  fail "apt-get could not install $*"
}

apt_get_install() {
  DEBIAN_FRONTEND=noninteractive apt-get install --option DPkg::Lock::Timeout=120 --yes --quiet=2 --no-install-recommends "$@" </dev/null
}
