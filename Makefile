# What a developer types. Each target is one command or one script; nothing is decided here.

.DEFAULT_GOAL := help
.PHONY: help run check test bench fuzz

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

run: ## Run the server on http://127.0.0.1:8080/ (release build)
	cargo run --release

check: ## Format, lints, unit and property tests, 200 simulated worlds: the quick round, without installing anything
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace --lib --bins
	SEEDS=200 cargo test --test simulation

test: ## Everything, with clients from outside; installs what that takes and says so
	scripts/test

bench: ## The hot path without sockets, timed, beside tungstenite and fastwebsockets, and in instructions (valgrind; ten minutes)
	cargo bench --bench hot_path --bench peers
	scripts/instructions --peers
	scripts/instructions

fuzz: ## Each fuzz target for FUZZ_SECONDS (60) on nightly; what they find becomes a file to commit
	scripts/fuzz
