# shellcheck shell=bash
# Faults for tests, each with its undo. They read the nodes' own files, not the API server, so that they are quick and also work
# while the API server does not.

# --- a node without network ---

node_cut() { node_set_link "$1" down; }
node_restore() { node_set_link "$1" up; }

node_set_link() {
  local number=${1#node}
  [[ " ${NODE_NUMBERS[*]} " == *" $number "* ]] || fail "there is no node '$1'"
  ip -n "$CONTROL" link set "$(node_link "$number")" "$2"
}

# --- a pod's processes ---

pod_pids() {
  local found
  found=$(pod_processes "$1" "$2")
  [[ -n $found ]] || fail "pod $1/$2 has no process on any node"
  echo "$found"
}

# pod_signal NAMESPACE POD SIGNAL [PROGRAM]
pod_signal() {
  local found pids signal=${3#SIG}
  kill -l "$signal" >/dev/null 2>&1 || fail "there is no signal '$3'"
  found=$(pod_pids "$1" "$2")
  if [[ -n ${4:-} ]]; then
    found=$(running "$4" <<<"$found")
    [[ -n $found ]] || fail "no process of pod $1/$2 runs $4"
  fi
  mapfile -t pids <<<"$found"
  # A process that ends by itself in between has got what it was to get.
  kill -s "$signal" "${pids[@]}" 2>/dev/null || true
}

# running PROGRAM: those of the pids on standard input whose program has this name, of at most 15 characters.
running() {
  local pid name
  while read -r pid; do
    name=$(cat "/proc/$pid/comm" 2>/dev/null || true)
    if [[ $name == "$1" ]]; then
      echo "$pid"
    fi
  done
}

# pod_processes NAMESPACE POD: pids as the host counts them, of all containers but the sandbox.
pod_processes() {
  local number container
  while read -r number container; do
    if [[ ! -d $(sandboxes_of "$number")/${container##*/} ]]; then
      cat "$container/cgroup.procs" 2>/dev/null || true
    fi
  done < <(pod_cgroups "$1" "$2")
}

# pod_cgroups NAMESPACE POD: lines "NODE_NUMBER CGROUP", one for each container and the sandbox.
pod_cgroups() {
  local number logs container mount
  mount=$(cgroup_mounts | grep --extended-regexp --max-count=1 '/(pids|cgroup)$')
  for number in "${NODE_NUMBERS[@]}"; do
    # The kubelet names a pod's log directory NAMESPACE_POD_UID, and a pod's cgroup by UID under its class of service.
    for logs in "$(node_data_dir "$number")/pod-logs/$1_$2_"*; do
      [[ -d $logs ]] || continue
      for container in "$mount/$(node_machine "$number")/kubepods/"{,*/}"pod${logs##*_}"/*/; do
        [[ -d $container ]] || continue
        echo "$number ${container%/}"
      done
    done
  done
}

sandboxes_of() { echo "$(node_state_dir "$1")/containerd/io.containerd.grpc.v1.cri/sandboxes"; }

# --- a pod without the API server ---

# api_cut NAMESPACE POD: before address translation and connection tracking, so for connections that exist as well.
api_cut() {
  pod_cut "$1" "$2" "$(api_cut_table "$1" "$2")" <<END
    ip saddr @pod ip daddr { $API_SERVICE_ADDRESS, $CONTROL_ADDRESS } tcp dport { 443, $API_PORT } drop
    ip saddr $CONTROL_ADDRESS ip daddr @pod tcp sport $API_PORT drop
END
}

# api_restore NAMESPACE POD: the pod may be gone by now.
api_restore() { drop_table "$(api_cut_table "$1" "$2")"; }

api_cut_table() { echo "pp-api-cut-$1/$2"; }

# --- a pod without the way to one address ---

# --- an API server that does not answer ---

api_freeze() { api_signal STOP; }
api_thaw() { api_signal CONT; }

api_signal() {
  local pid
  pid=$(process_of "$CONTROL/kube-apiserver" kube-apiserver) || fail "the API server does not run"
  kill -s "$1" "$pid"
}

# --- the way between two pods ---

# path_cut NAMESPACE POD ADDRESS: everything between the two is dropped, in both directions. ADDRESS is a pod's; that of a Service is
# never seen here.
path_cut() {
  [[ $3 =~ ^[0-9]+(\.[0-9]+){3}$ ]] || fail "'$3' is no address"
  pod_cut "$1" "$2" "$(path_cut_table "$1" "$2" "$3")" <<END
    ip saddr @pod ip daddr $3 drop
    ip saddr $3 ip daddr @pod drop
END
}

# path_restore NAMESPACE POD ADDRESS: the pod may be gone by now.
path_restore() { drop_table "$(path_cut_table "$1" "$2" "$3")"; }

path_cut_table() { echo "pp-path-cut-$1/$2/$3"; }

# pod_cut NAMESPACE POD TABLE: puts the rules on standard input before everything that the pod's node forwards; @pod is its address.
pod_cut() {
  local number address
  read -r number address < <(pod_address "$1" "$2") || fail "pod $1/$2 has no address on any node"
  nft_in "$number" -f - <<END
table ip $3
delete table ip $3
table ip $3 {
  set pod {
    type ipv4_addr
    elements = { $address }
  }
  chain before {
    type filter hook prerouting priority raw - 10
$(cat)
  }
}
END
}

# drop_table TABLE: on whichever node it is.
drop_table() {
  local number
  for number in "${NODE_NUMBERS[@]}"; do
    nft_in "$number" delete table ip "$1" 2>/dev/null || true
  done
}

nft_in() {
  local machine
  machine=$(node_machine "$1")
  shift
  nsenter --net="/run/netns/$machine" nft "$@"
}

# pod_address NAMESPACE POD: "NODE_NUMBER ADDRESS", from the files in which the network plugin notes whose an address is.
pod_address() {
  local number container file
  while read -r number container; do
    file=$(grep --files-with-matches "^${container##*/}" "$(node_state_dir "$number")/addresses/pods/"[0-9]* 2>/dev/null) || continue
    echo "$number ${file##*/}"
    return
  done < <(pod_cgroups "$1" "$2")
  return 1
}

# --- all of them ---

restore_all() {
  local number table
  for number in "${NODE_NUMBERS[@]}"; do
    node_restore "$number"
    for table in $(cuts_of "$number"); do
      nft_in "$number" delete table ip "$table"
    done
  done
  thaw_all
}

# cuts_of N: the tables of api_cut and path_cut on node N.
cuts_of() { nft_in "$1" list tables ip | awk '$3 ~ "^pp-(api|path)-cut-" { print $3 }'; }

thaw_all() {
  stopped_processes | xargs --no-run-if-empty kill -s CONT 2>/dev/null || true
}

# stopped_processes: those of the machines that a signal has frozen.
stopped_processes() {
  cgroup_processes | sed 's|.*|/proc/&/status|' | xargs --no-run-if-empty grep --files-with-matches '^State:\sT' 2>/dev/null |
    cut -d / -f 3 || true
}

faults_in_force() {
  local number table pid
  for number in "${NODE_NUMBERS[@]}"; do
    if ! ip -n "$CONTROL" link show "$(node_link "$number")" 2>/dev/null | grep --quiet '[<,]UP[,>]'; then
      echo "fault: node$number is cut off"
    fi
    for table in $(cuts_of "$number" 2>/dev/null); do
      case $table in
        pp-api-cut-*) echo "fault: ${table#pp-api-cut-} is cut from the API server" ;;
        *) echo "fault: the path ${table#pp-path-cut-} is cut" ;;
      esac
    done
  done
  for pid in $(stopped_processes); do
    echo "fault: process $pid is frozen"
  done
}
