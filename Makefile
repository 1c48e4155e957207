.DEFAULT_GOAL := help
.PHONY: help demo test check fmt lint deny advisories unit chart e2e image load crds cluster cluster-down packages clients fuzz bench-failover

E2E ?=
TARGET ?= codec
INPUT ?=
IMAGE ?= proxypair.test/proxypair:dev
STAND_INS ?= proxypair.test/stand-ins:dev
NCO_PROXYSERV ?= proxypair.test/nco-proxyserv:dev
export IMAGE STAND_INS NCO_PROXYSERV

CARGO_DENY_VERSION := 0.20.2
TOOLS := $(or $(CARGO_TARGET_DIR),target)/tools
CARGO_DENY := $(or $(shell command -v cargo-deny),$(TOOLS)/bin/cargo-deny)

help: ## Print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: load ## Watch a failover and a failback on a cluster that this builds and starts
	@cargo test --quiet --locked --package testkit --test demo

test: check e2e ## Every check there is (CLUSTER=current IMAGE=… STAND_INS=… NCO_PROXYSERV=… for a cluster of your own)

check: clients fmt lint deny unit ## The checks that need no cluster

fmt:
	@cargo fmt --all --check

lint:
	@cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	@cargo clippy --quiet --locked --workspace --test e2e --test demo --test bench_failover --test chart_on_cluster -- -D warnings # not among --all-targets: plain `cargo test` leaves them alone
	@shellcheck --external-sources tests/cluster/cluster tests/cluster/image tests/cluster/lib/*.sh tests/clients/install fuzz/run fuzz/instrument .ci/run

deny: $(CARGO_DENY) # licences, duplicate versions and sources of the dependencies
	@$(CARGO_DENY) --locked --log-level error check --deny unnecessary-skip bans licenses sources

advisories: $(CARGO_DENY) ## Check the dependencies against the RustSec database, which is fetched from GitHub
	@$(CARGO_DENY) --locked check advisories

$(TOOLS)/bin/cargo-deny:
	@echo "check: compiling cargo-deny $(CARGO_DENY_VERSION) into $(TOOLS) (once, 2 to 3 minutes)" >&2
	@cargo install --quiet --locked --version $(CARGO_DENY_VERSION) --root $(TOOLS) cargo-deny

unit: # everything that `cargo test` runs by itself: unit, property and protocol tests, the gate on loopback, the chart, the arrows
	@cargo test --quiet --locked --workspace

chart: ## Test the chart alone, without a cluster
	@cargo test --quiet --locked --test chart

e2e: load ## The end-to-end tests (E2E=name for those whose name has it)
	@cargo test --quiet --locked --package testkit --test chart_on_cluster -- --ignored $(E2E)
	@cargo test --quiet --locked --package testkit --test e2e -- $(E2E)

bench-failover: load ## Measure outages and where the time goes (RUNS=20, RUNS_NODE=20)
	@cargo test --quiet --locked --package testkit --test bench_failover

fuzz: packages ## Fuzz without an end, guided by coverage (TARGET=codec, tracker or common_name; INPUT=file for one input)
	@fuzz/run $(TARGET) $(INPUT)

image: packages ## Build the images (IMAGE=name:tag for the operator's), with docker, podman or buildah
	@tests/cluster/image

load: cluster image
	@[ "$(CLUSTER)" = current ] || for file in target/images/*.tar; do tests/cluster/cluster load-image $$file || exit; done

crds: ## Write crds/proxypairs.yaml, and the chart's copy, from the Rust types
	@mkdir -p target crds
	@cargo run --quiet --locked -- crd >target/proxypairs.yaml
	@cp target/proxypairs.yaml crds/proxypairs.yaml
	@cp target/proxypairs.yaml charts/proxypair/files/proxypairs.yaml

cluster: ## Start the test cluster, or say that it runs (CLUSTER=current: check the current kubectl context)
	@tests/cluster/cluster up

cluster-down: ## Take the test cluster down
	@tests/cluster/cluster down

packages:
	@tests/cluster/cluster packages

clients: packages # the TDS clients that are no Debian packages
	@tests/clients/install
