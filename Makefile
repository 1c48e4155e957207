.DEFAULT_GOAL := help
.PHONY: help demo test check fmt lint deny advisories unit chart e2e programs image load kubernetes crds cluster cluster-down packages clients fuzz bench-failover simulate simulate-whole mutants

E2E ?=
TARGET ?= codec
INPUT ?=
IMAGE ?= proxypair.test/proxypair:dev
STAND_INS ?= proxypair.test/stand-ins:dev
NCO_PROXYSERV ?= proxypair.test/nco-proxyserv:dev
# One at a time where two compilers and a linker at once are too much for the memory.
JOBS ?= $(shell awk '/^MemAvailable:/ { print ($$2 > 6 * 1024 * 1024) ? 3 : 1 }' /proc/meminfo)
export IMAGE STAND_INS NCO_PROXYSERV

CARGO_DENY_VERSION := 0.20.2
TOOLS := $(or $(CARGO_TARGET_DIR),target)/tools
CARGO_DENY := $(or $(shell command -v cargo-deny),$(TOOLS)/bin/cargo-deny)

# Built before by `programs`, out of the dependencies that the images are made of.
CLUSTER_TEST := cargo test --quiet --locked --release --package testkit

help: ## Print this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: export HARNESS = demo
demo: load ## Watch a failover and a failback on a cluster that this builds and starts
	@$(CLUSTER_TEST) --test demo

test: check e2e ## Every check there is (CLUSTER=current IMAGE=… STAND_INS=… NCO_PROXYSERV=… for a cluster of your own)

check: clients fmt lint deny unit ## The checks that need no cluster

fmt:
	@cargo fmt --all --check

lint:
	@cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	@cargo clippy --quiet --locked --workspace --test e2e --test demo --test bench_failover --test chart_on_cluster -- -D warnings # not among --all-targets: plain `cargo test` leaves them alone
	@cargo clippy --quiet --locked --features simulation --lib --test whole -- -D warnings
	@shellcheck --external-sources tests/cluster/cluster tests/cluster/image tests/cluster/lib/*.sh tests/clients/install tests/simulation/mutants/run fuzz/run fuzz/instrument .ci/run

deny: $(CARGO_DENY) # licences, duplicate versions and sources of the dependencies
	@$(CARGO_DENY) --locked --log-level error check --deny unnecessary-skip bans licenses sources

advisories: $(CARGO_DENY) ## Check the dependencies against the RustSec database, which is fetched from GitHub
	@$(CARGO_DENY) --locked check advisories

$(TOOLS)/bin/cargo-deny:
	@echo "check: compiling cargo-deny $(CARGO_DENY_VERSION) into $(TOOLS) (once, 2 to 3 minutes)" >&2
	@cargo install --quiet --locked --version $(CARGO_DENY_VERSION) --root $(TOOLS) cargo-deny

unit: # everything that `cargo test` runs by itself: unit, property and protocol tests, the gate on loopback, the chart, the arrows
	@cargo test --quiet --locked --workspace
	@cargo test --quiet --locked --features simulation --test whole

chart: ## Test the chart alone, without a cluster
	@cargo test --quiet --locked --test chart

e2e: export HARNESS = chart_on_cluster e2e
e2e: load ## The end-to-end tests (E2E=name for those whose name has it)
	@$(CLUSTER_TEST) --test chart_on_cluster -- --ignored $(E2E)
	@$(CLUSTER_TEST) --test e2e -- $(E2E)

bench-failover: export HARNESS = bench_failover
bench-failover: load ## Measure outages and where the time goes (RUNS=20, RUNS_NODE=20)
	@$(CLUSTER_TEST) --test bench_failover

fuzz: packages ## Fuzz without an end, guided by coverage (TARGET=codec, tracker or common_name; INPUT=file for one input)
	@fuzz/run $(TARGET) $(INPUT)

simulate: export SIMULATE = $(if $(SEED),,$(or $(SECONDS_MAX),0))
simulate: ## Simulate histories until stopped (SECONDS_MAX=60 for a minute; SEED=7 tells one history)
	@cargo test --quiet --locked --release --test simulation

simulate-whole: export WHOLE = $(if $(SEED),,$(or $(SECONDS_MAX),0))
simulate-whole: ## The same of whole processes in a simulated network, a hundred times slower
	@cargo test --quiet --locked --features simulation --test whole

mutants: ## Show that simulator and search find planted defects (MUTANT=name for those whose name has it)
	@tests/simulation/mutants/run

programs: # what goes into the images, and what HARNESS names
	@tests/cluster/image programs

# A machine without a linker gets one with the packages.
ifeq ($(shell command -v cc),)
programs: packages
endif

image: packages programs ## Build the images (IMAGE=name:tag for the operator's), with docker, podman or buildah
	@tests/cluster/image images

# Debian's packages, Kubernetes and the images are made side by side: while one downloads or links, another compiles.
load:
	@$(MAKE) --no-print-directory --jobs=$(JOBS) cluster image
	@[ "$(CLUSTER)" = current ] || for file in target/images/*.tar; do tests/cluster/cluster load-image $$file || exit; done

crds: ## Write crds/proxypairs.yaml, and the chart's copy, from the Rust types
	@mkdir -p target crds
	@cargo run --quiet --locked -- crd >target/proxypairs.yaml
	@cp target/proxypairs.yaml crds/proxypairs.yaml
	@cp target/proxypairs.yaml charts/proxypair/files/proxypairs.yaml

ifneq ($(CLUSTER),current)
cluster: packages kubernetes
endif
cluster: ## Start the test cluster, or say that it runs (CLUSTER=current: check the current kubectl context)
	@tests/cluster/cluster up

cluster-down: ## Take the test cluster down
	@tests/cluster/cluster down

kubernetes: # compile it, unless it runs
	@tests/cluster/cluster build

packages:
	@tests/cluster/cluster packages

clients: packages # the TDS clients that are no Debian packages
	@tests/clients/install
