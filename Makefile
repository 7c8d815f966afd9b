# The commands of this project. `make` alone lists them.

# Where rustup keeps cargo and Debian keeps nginx, for shells that do not look there by themselves.
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/local/sbin:/usr/sbin:/sbin

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
REPORT     := target/report/compare.json
BENCH_REPORT := target/report/bench.json

# Streams that `make demo` opens through each target.
STREAMS ?= 5000
# Further arguments: of `sse-loadgen compare` for demo, of `sse-loadgen bench` for bench, of the test runner for test.
ARGS    ?=
# How often `make test-soak` runs the tests, and how long `make fuzz` runs each target.
SOAK_RUNS    ?= 3
FUZZ_SECONDS ?= 60

# `check` is `lint`, then `test`, in this order.
.NOTPARALLEL:
.PHONY: help setup demo bench test test-soak fuzz check lint build compose-check observe-check check-deploy

help:
	@echo 'make demo           build everything and compare direct, nginx, sse-proxy and nginx + sse-proxy'
	@echo '                      make demo STREAMS=9000 ARGS="--rounds 3"   (sse-loadgen compare --help)'
	@echo 'make bench          measure everything that docs/benchmarks.md tells, and write it anew (forty minutes; HAProxy if it is installed)'
	@echo '                      make bench ARGS="--suites knee,churn"      (sse-loadgen bench --help)'
	@echo '                      make bench ARGS=--quick                    (two minutes, into target/report)'
	@echo 'make test           build everything and run every test'
	@echo '                      make test ARGS=heartbeat                   (only what has this in its name)'
	@echo 'make test-soak      the tests again and again, also with busy cores and one by one: which fail how often'
	@echo '                      make test-soak SOAK_RUNS=10 ARGS=heartbeat'
	@echo 'make fuzz           each fuzz target for a minute'
	@echo '                      make fuzz FUZZ_SECONDS=600 ARGS=chunked'
	@echo 'make check          what CI runs: format, lints, documentation, dependencies, then every test'
	@echo 'make build          release binaries, in $(TARGET_DIR)/release'
	@echo 'make setup          install what these need and this machine lacks (apt-get; the others do it by themselves)'
	@echo 'make compose-check  docker compose up, streams, the comparison, four load generators merged, docker compose down'
	@echo 'make observe-check  the dashboard against a live proxy, with the prometheus and promtool of this machine'
	@echo 'make check-deploy   the Helm chart, the kustomizations and the alert rules (also a part of make test)'

setup:
	@scripts/setup check

build:
	@scripts/setup build
	cargo build --release --locked --workspace --bins

demo:
	@scripts/setup demo
	cargo build --release --locked --workspace --bins
	@mkdir -p $(dir $(REPORT))
	$(TARGET_DIR)/release/sse-loadgen compare --streams $(STREAMS) --json $(REPORT) $(ARGS)

bench:
	@scripts/setup demo
	cargo build --release --locked --workspace --bins
	cargo bench --locked -p sse-proxy --bench core --bench opening -- --warm-up-time 1 --measurement-time 2 --noplot
	$(TARGET_DIR)/release/sse-loadgen bench --criterion $(TARGET_DIR)/criterion --json $(BENCH_REPORT) $(ARGS)

test:
	@scripts/setup test
	@scripts/test $(ARGS)

test-soak:
	@scripts/setup test
	@scripts/soak-tests $(SOAK_RUNS) $(ARGS)

fuzz:
	@scripts/setup build
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz $(ARGS)

lint:
	@scripts/setup check
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --package sse-proxy --no-default-features --lib -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps
	@scripts/deny

check: lint test

compose-check:
	@scripts/compose-check

observe-check:
	@scripts/setup build
	cargo build --release --locked --workspace --bins
	@BIN=$(TARGET_DIR)/release scripts/observe-check

check-deploy:
	@scripts/setup test
	cargo build --locked --package sse-proxy --bin sse-proxy
	@SSE_PROXY=$(TARGET_DIR)/debug/sse-proxy scripts/check-deploy
