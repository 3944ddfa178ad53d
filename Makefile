# The commands of this project. `make run` needs Rust and nothing else.

.PHONY: run test test-quick check bench openapi

# The server on http://127.0.0.1:3000 with SQLite in ./data.
run:
	cargo build --release -p chat-api
	./target/release/chat-system

# Every test, on SQLite, MariaDB and MySQL. STAGES="a b" names test binaries that must not be empty.
test:
	tests/prepare
	cargo build -p chat-api --bin chat-system
	STAGES="$(STAGES)" tests/run --workspace

# Without database servers: the unit tests, and the contract on the in-memory log and on SQLite.
test-quick:
	tests/run --workspace --lib
	tests/run -p chat-tests --test contract -- memory sqlite

# Formatting, lints and documentation; any warning fails.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

bench:
	cargo run --release -p chat-bench

# The description of the REST API that is committed.
openapi:
	mkdir -p openapi
	cargo run --quiet -p chat-api -- openapi >openapi/openapi.json.new
	mv openapi/openapi.json.new openapi/openapi.json
