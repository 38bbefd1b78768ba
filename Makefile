SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

# docs/decisions/003-lint.md says how to raise the version.
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# One process with several nodes cannot run under the race detector: protoactor
# writes a process-global gRPC logger whenever a node starts. What can, does.
RACE    := ./aggregate/... ./persistence/... ./eventsourcing/... ./actor/... ./cluster/internal/...
NO_RACE := . ./cluster/... ./examples/... ./benchmarks/...

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: check lint ## the one test command: format, vet, lint, every test, a real PostgreSQL included
	@scripts/ensure-cc.sh
	env=$$(scripts/ensure-postgres.sh)
	eval "$$env"
	echo "== tests under the race detector"
	packages=$$(go list $(RACE) | grep -v /cluster/internal/simulation)
	scripts/gotest.sh -race -count=1 -timeout=8m $$packages
	echo "== tests of several nodes"
	packages=$$(go list $(NO_RACE) | grep -v /cluster/internal/)
	scripts/gotest.sh -count=1 -timeout=8m $$packages
	echo "== simulation" # alone, so that its seeds replay
	scripts/gotest.sh -count=1 -timeout=20m ./cluster/internal/simulation

.PHONY: test-unit
test-unit: ## the fast part: no PostgreSQL, no cluster
	@scripts/gotest.sh -timeout=2m . ./aggregate/... ./persistence ./persistence/memory/... ./persistence/sqlite/... \
		./eventsourcing/... ./actor/... $$(go list ./cluster/internal/... | grep -v /simulation)

SEEDS ?= 100000
FROM  ?= 1
.PHONY: simulate
simulate: ## the cluster simulated: SEEDS=100000 of them FROM=1, some hours; docs/testing.md
	@go test ./cluster/internal/simulation -run 'TestSeeds$$' -count=1 -timeout=0 -v -seeds=$(SEEDS) -from=$(FROM) -progress=30s

.PHONY: check
check: ## gofmt and go vet
	@echo "== gofmt and go vet"
	files=$$(gofmt -l .)
	if [[ -n $$files ]]; then echo "not formatted, run make fmt:"; echo "$$files"; exit 1; fi
	go vet ./...

.PHONY: lint
lint: ## golangci-lint with .golangci.yaml; the first run builds it, about a minute
	@echo "== lint"
	$(GOLANGCI_LINT) run ./...

.PHONY: fmt
fmt: ## format the code
	@gofmt -w .

.PHONY: bench
bench: ## measure speed beside its baselines and print a table
	@env=$$(scripts/ensure-postgres.sh)
	eval "$$env"
	go run ./benchmarks/speed

.PHONY: trader
trader: ## three nodes, robots trading on them, on SQLite in ./trader-data
	@go run ./examples/trader

.PHONY: clean
clean: ## remove what running and testing left: the examples' data, reports, the test container
	@rm -rf trader-data counter-data report
	for engine in docker podman; do
		if command -v $$engine >/dev/null; then $$engine rm -f ingrain-test-postgres >/dev/null 2>&1 || true; fi
	done
	go clean -testcache
