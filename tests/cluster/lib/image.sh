# shellcheck shell=bash
# An image of one static program, written without a container tool: a docker-archive with a single layer.

# image_of_program PROGRAM NAME:TAG FILE.tar
image_of_program() {
  local program=$1 reference=$2 archive=$3 work layer config
  work=$(mktemp --directory --tmpdir="$(dirname "$archive")")
  reproducible_tar --mode=0755 --directory="$(dirname "$program")" --file="$work/layer.tar" "$(basename "$program")"
  layer=$(digest_of "$work/layer.tar")
  jq --null-input --arg architecture "$(go env GOARCH)" --arg program "/$(basename "$program")" --arg layer "sha256:$layer" '{
    architecture: $architecture, os: "linux",
    config: {Entrypoint: [$program], WorkingDir: "/"},
    rootfs: {type: "layers", diff_ids: [$layer]},
    history: [{created: "1970-01-01T00:00:00Z"}]
  }' >"$work/config.json"
  config=$(digest_of "$work/config.json").json
  mv "$work/config.json" "$work/$config"
  jq --null-input --arg config "$config" --arg reference "$reference" \
    '[{Config: $config, RepoTags: [$reference], Layers: ["layer.tar"]}]' >"$work/manifest.json"
  reproducible_tar --directory="$work" --file="$archive" "$config" layer.tar manifest.json
  rm -rf "$work"
}

reproducible_tar() {
  tar --create --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"
}

digest_of() {
  local sum
  sum=$(sha256sum "$1")
  echo "${sum%% *}"
}
