.DEFAULT_GOAL := help
.PHONY: help cluster cluster-down

help: ## Print this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

cluster: ## Start the test cluster, or say that it runs (CLUSTER=current: check the current kubectl context)
	@tests/cluster/cluster up

cluster-down: ## Take the test cluster down
	@tests/cluster/cluster down
