# shellcheck shell=bash
# Images from a file into the nodes, as there is no registry.

# load_image FILE.tar: a docker-archive, into all nodes at once.
load_image() {
  [[ -r $1 ]] || fail "there is no file $1"
  for_each_node "could not load $1 into every node" load_image_into "$1"
}

load_image_into() {
  local number=$1 archive=$2 began=$EPOCHREALTIME
  if node_holds "$number" "$archive"; then
    say "node$number has $(basename "$archive") already"
    return
  fi
  node_ctr "$number" images import "$archive" >/dev/null
  say "node$number took $(basename "$archive") in $(seconds_since "$began") s"
}

# node_holds N FILE.tar: whether every name in FILE stands for the same image on node N. Kubernetes' side of containerd also
# lists an image under the digest of its configuration, which is the one digest that an archive states.
node_holds() {
  local listed config names name target
  listed=$(node_ctr "$1" images list | awk '{ print $1, $3 }')
  while read -r config names; do
    target=$(awk -v name="sha256:$config" '$1 == name { print $2 }' <<<"$listed")
    [[ -n $target ]] || return 1
    for name in $names; do
      grep --quiet --line-regexp --fixed-strings "$name $target" <<<"$listed" || return 1
    done
  done < <(archive_images "$2")
}

# archive_images FILE.tar: lines "CONFIG_DIGEST NAME..." for each image in it.
archive_images() {
  tar --extract --to-stdout --file="$1" manifest.json |
    jq --raw-output '.[] | [(.Config | ltrimstr("blobs/sha256/") | rtrimstr(".json")), .RepoTags[]] | join(" ")'
}
