# The commands of this project. `make run` needs Rust and nothing else; with Node 20 it has the chat page as well.

.PHONY: run page test test-quick soak proof check bench bench-full openapi

# The server on http://127.0.0.1:3000 with SQLite in ./data.
run: page
	cargo build --release -p chat-api
	exec "$$(tests/target-folder)/release/chat-system"

# The chat page, which the next build of the binary takes in.
page:
	@frontend/web/build

# Every test: on SQLite, MariaDB and MySQL, with a collector of traces, and in a browser. ONLY=subject runs the tests with
# that word in their module or crate (ONLY=sockets, ONLY=domain), ONLY=frontend those of the front end. STAGES="a b" names
# modules that must not be empty. docs/testing.md says which promise is held where.
ONLY ?=
test:
	tests/prepare
	$(MAKE) --no-print-directory page
	STAGES="$(STAGES)" tests/run $(ONLY)

# Without database servers, Node and a browser, in under two minutes: unit tests, the contract, and most of what runs on
# SQLite.
test-quick:
	tests/prepare nextest
	PROFILE=quick tests/run

# What the gate runs small, in full size: hours. It must pass before a release.
soak:
	tests/prepare
	$(MAKE) --no-print-directory page
	PROFILE=soak tests/run $(ONLY)

# Everything is broken for PROOF_MINUTES (10) while people send and read, and a checker looks at what came of it.
# PROOF_DATABASE is mariadb (with a replica; PROOF_STANDBY=no: without; PROOF_CLUSTER=yes: of a Galera cluster), mysql or
# sqlite; PROOF_SEED repeats a run's schedule; PROOF_HISTORY keeps what happened.
proof:
	tests/prepare
	cargo build --workspace --all-features --bin chat-system --example proof
	target=$$(tests/target-folder)/debug && SERVER_BINARY=$$target/chat-system "$$target/examples/proof"

# Formatting, lints, documentation, and circles of imports; any warning fails.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --all-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --document-private-items
	cargo run --quiet -p chat-structure -- */src

# How fast it is, beside its peers, in one run on a private MariaDB: in a quarter of an hour, or with everything that is
# large. BENCH="--only send,idle" names some scenarios. The figures go to target/bench.
bench bench-full:
	tests/prepare
	npm ci --prefix bench/peers/node --no-audit --no-fund --silent
	cargo build --release -p chat-api --bin chat-system
	cargo build --release -p chat-bench
	target=$$(tests/target-folder)/release && SERVER_BINARY=$$target/chat-system "$$target/chat-bench" $(if $(filter bench-full,$@),--full) $(BENCH)

# The descriptions that are committed: of what is asked over HTTP, and of what comes over streams.
openapi:
	mkdir -p openapi
	for document in openapi asyncapi; do \
	  cargo run --quiet -p chat-api -- $$document >openapi/$$document.json.new && \
	  mv openapi/$$document.json.new openapi/$$document.json || exit 1; \
	done
