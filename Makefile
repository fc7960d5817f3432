# Every target sets up what it needs, on a machine that has Python 3.11 or newer and PyPI.
# ARGS is handed on: make demo ARGS="--once", make test ARGS="tests/unit -k retry".

SHELL := /usr/bin/env bash
UV := ./scripts/uv
RUN := $(UV) run --locked --extra local --extra postgres --extra otel
ARGS ?=
SEEDS ?= 200

# What must be covered to the last branch by tests/unit, as far as it exists.
PURE := $(patsubst src/stateline/%/,%,$(sort $(wildcard src/stateline/core/ src/stateline/contracts/ src/stateline/money/)))

.DEFAULT_GOAL := help
.PHONY: help demo test test-all crash tool-crash faults sim sim-mutants check format bench bench-contracts bench-formats bench-money bench-plan bench-policy bench-prices bench-routing bench-shared bench-telemetry bench-tools failover interleavings mcp-conformance soak

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## See a durable agent live through a kill -9, with a real model
	$(UV) run --locked --no-dev --extra local stateline demo $(ARGS)

test: ## Run the tests, the slow ones aside
	$(RUN) pytest -m "not slow" $(ARGS)

test-all: ## Run every test, the crash soaks included
	$(RUN) pytest $(ARGS)

crash: ## Kill the server 100 times under load; writes bench/results/crash.json
	$(RUN) pytest tests/crash/test_crash.py -m slow -s $(ARGS)

tool-crash: ## Kill the server 200 times in the middle of tool calls; writes bench/results/tool-crash.json
	$(RUN) pytest tests/crash/test_tool_crash.py tests/crash/test_tool_nodes.py -m slow -s $(ARGS)

sim: ## Simulate nodes that die, stall and lose the store: make sim SEEDS=2000; writes bench/results/sim.json
	$(RUN) python -m stateline.testing.sim --seeds $(SEEDS) --out bench/results/sim.json $(ARGS)

sim-mutants: ## Plant known defects, and show that the simulator finds each
	$(RUN) python -m stateline.testing.sim --mutants $(ARGS)

faults: ## Three nodes over PostgreSQL, and every fault; writes bench/results/faults.json
	FAULTS_RECORD=1 $(RUN) pytest tests/faults -s $(ARGS)

check: ## Format, lint, types, import directions, sizes, coverage of the pure core
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) basedpyright
	$(RUN) lint-imports --no-cache
	$(RUN) python scripts/gates.py
	$(RUN) python scripts/state_diagram.py --check
	$(RUN) python scripts/switching_table.py --check
	$(RUN) pytest tests/unit -m "not slow" $(PURE:%=--cov=stateline.%) --cov-branch --cov-fail-under=100 --cov-report=term-missing:skip-covered

format: ## Format the code and mend what can be mended
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

bench: ## Measure CPU per request and durable turns per second
	$(RUN) python -m bench $(ARGS)

bench-formats: ## CPU of a stored stream in every wire format; writes bench/results/formats.json
	$(RUN) python -m bench.formats $(ARGS)

bench-policy: ## CPU of a tool call's ruling by 20 policies
	$(RUN) python -m bench.policy $(ARGS)

bench-contracts: ## CPU that contracts add to a call, and of a verdict over 50 clauses; writes bench/results/contracts.json
	$(RUN) python -m bench.contracts $(ARGS)
	$(RUN) python -m bench.verdicts

bench-prices: ## Random calls priced from each public catalogue, against its raw data: make bench-prices ARGS=FOLDER
	$(UV) run --locked --extra local --with genai-prices==0.2.3 python -m bench.prices $(ARGS)

bench-money: ## CPU that prices, the meter and budgets add to a call; writes bench/results/money.json
	$(RUN) python -m bench.money $(ARGS)

bench-telemetry: ## CPU that traces and metrics over OTLP add to a call; writes bench/results/telemetry.json
	$(RUN) python -m bench.telemetry $(ARGS)

interleavings: ## 10,000 random interleavings of calls and crashes on each store; writes bench/results/interleavings.json
	$(RUN) python -m bench.interleavings $(ARGS)

mcp-conformance: ## The MCP conformance suite for clients (npm, network); writes bench/results/mcp-conformance.json
	$(RUN) python -m bench.mcp_conformance $(ARGS)

bench-shared: ## Nodes over one PostgreSQL: against a bare loop, two nodes, renewals, readers, streams, one budget
	$(RUN) python -m bench.shared $(ARGS)

bench-tools: ## CPU of a tool call; 10,000 calls that wait for a person; writes bench/results/tools.json
	$(RUN) python -m bench.tool_calls $(ARGS)

bench-plan: ## Plans against brute force and greedy ones; writes bench/results/plan.json
	$(RUN) python -m bench.plan $(ARGS)

bench-routing: ## A year of traffic by marginal value and by list price; writes bench/results/routing.json and .svg
	$(RUN) python -m bench.routing $(ARGS)

failover: ## 200 streams over three upstreams that break in turn; writes bench/results/failover.json
	$(RUN) python -m bench.failover $(ARGS)

soak: ## 100,000 turns over 5,000 sessions: what grows; writes bench/results/soak.json
	$(RUN) python -m bench.soak $(ARGS)
