.DEFAULT_GOAL := help
.PHONY: help cluster cluster-down image crds chart

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

cluster: ## Start the test cluster, or say that it runs (CLUSTER=current: check the current kubectl context)
	@tests/cluster/cluster up

cluster-down: ## Take the test cluster down
	@tests/cluster/cluster down

image: ## Build the images (IMAGE=name:tag for the operator's), with docker, podman or buildah
	@tests/cluster/image

crds: ## Write crds/proxypairs.yaml, and the chart's copy, from the Rust types
	@mkdir -p target crds
	@cargo run --quiet --locked -- crd >target/proxypairs.yaml
	@cp target/proxypairs.yaml crds/proxypairs.yaml
	@cp target/proxypairs.yaml charts/proxypair/files/proxypairs.yaml

chart: ## Test the chart without a cluster
	@cargo test --quiet --locked --test chart
