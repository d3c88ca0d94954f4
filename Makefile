.DEFAULT_GOAL := help
.PHONY: help deps build demo test matrix model bench fuzz golden lint fmt parts-up parts-down clean-parts

STATE ?= .dev
FUZZ_SECONDS ?= 60

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## from a real source to a real target before your eyes, proven equal at the end (KEEP=0 stops the parts)
	@dev/demo

test: ## format, lints, all tests on real parts
	@dev/test $(ARGS)

matrix: ## the integration tests on PostgreSQL 14 to 18 (VERSIONS="16 17" chooses; ARGS go to the tests)
	@dev/matrix $(ARGS)

model: ## random writers, faults and resyncs, judged by a checker of its own (WALRELAY_MODEL_SECONDS, WALRELAY_MODEL_SEED)
	@dev/test --test it -- model:: --ignored

bench: ## measure on real parts: a table and target/bench/report.json
	@dev/bench $(ARGS)

fuzz: ## feed what reads foreign bytes with garbage, each target for FUZZ_SECONDS (60); needs cargo-fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) dev/fuzz $(ARGS)

golden: ## record anew what Debezium writes (tests/golden/recorded); ARGS: families or variants
	@dev/debezium record $(ARGS)

build: deps ## release build
	cargo build --release --locked

lint: ## clippy and shellcheck, warnings denied
	cargo clippy --all-targets --locked -- -D warnings
	shellcheck -x dev/parts dev/debezium dev/test dev/matrix dev/bench dev/fuzz dev/deps dev/demo dev/check-compose dev/lib/*.sh .ci/run

fmt: ## format the code
	cargo fmt

deps: ## install what the build needs from the system, or say what is missing
	@dev/deps

parts-up: ## start PostgreSQL (twice), Kafka and a registry in STATE (default .dev)
	@dev/parts up --state $(STATE)

parts-down: ## stop them; their data stays
	@dev/parts down --state $(STATE)

clean-parts: ## stop all parts of this checkout and drop their data
	@for state in .dev/demo .dev/test .dev/bench .dev/golden .dev; do dev/parts reset --state $$state; done
