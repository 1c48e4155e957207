# shellcheck shell=bash
# Links, addresses and routes. Everything lives in the machines' namespaces but one link, through which the host reaches the rest.

# network_create_control: the bridge that joins the machines, and the host's foot in it.
network_create_control() {
  ip -n "$CONTROL" link add "$BRIDGE" type bridge
  ip -n "$CONTROL" address add "$CONTROL_ADDRESS/24" dev "$BRIDGE"
  ip -n "$CONTROL" link set "$BRIDGE" up
  ip link add "$HOST_LINK" type veth peer name "$HOST_LINK" netns "$CONTROL"
  ip -n "$CONTROL" link set "$HOST_LINK" master "$BRIDGE" up
  ip address add "$HOST_ADDRESS/24" dev "$HOST_LINK"
  ip link set "$HOST_LINK" up
  ip route add "$POD_RANGE" via "$CONTROL_ADDRESS" dev "$HOST_LINK"
  network_forward "$CONTROL"
}

# network_attach_node N: a cable from the bridge to node N, and routes to its pods on all other machines.
# There is no way out: nothing beyond these namespaces has a route.
network_attach_node() {
  local machine link address other
  machine=$(node_machine "$1")
  link=$(node_link "$1")
  address=$(node_address "$1")
  ip -n "$CONTROL" link add "$link" type veth peer name eth0 netns "$machine"
  ip -n "$CONTROL" link set "$link" master "$BRIDGE" up
  ip -n "$machine" address add "$address/24" dev eth0
  ip -n "$machine" link set eth0 up
  ip -n "$machine" route add default via "$CONTROL_ADDRESS"
  ip -n "$CONTROL" route add "$(node_pod_range "$1")" via "$address"
  for other in "${NODE_NUMBERS[@]}"; do
    if [[ $other != "$1" ]]; then
      ip -n "$machine" route add "$(node_pod_range "$other")" via "$(node_address "$other")"
    fi
  done
  network_forward "$machine"
}

network_forward() {
  nsenter --net="/run/netns/$1" sysctl --quiet --write net.ipv4.ip_forward=1
}

# network_remove_all: the namespaces take their links, routes and rules with them.
network_remove_all() {
  local machine
  for machine in "${MACHINES[@]}"; do
    if [[ -e /run/netns/$machine ]]; then
      ip netns delete "$machine"
    fi
  done
  # A namespace goes in its own time, and its end of this link with it: not to be waited for.
  if ip link show "$HOST_LINK" >/dev/null 2>&1; then
    ip link delete "$HOST_LINK" 2>/dev/null || true
  fi
}

network_left() {
  local machine
  for machine in "${MACHINES[@]}"; do
    [[ ! -e /run/netns/$machine ]] || return 0
  done
  ip link show "$HOST_LINK" >/dev/null 2>&1
}
