# `make run` and `make test` work from a fresh clone: .venv is made when first needed, and made
# anew when pyproject.toml or constraints.txt change.

PYTHON ?= python3
RELAY_CONFIG ?= relay.yaml
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test check format bench bench-quick faults faults-short soak stubs docs reference clean

run: $(READY)
	@exec $(BIN)/relay run --config "$(RELAY_CONFIG)"

# The tests start relays by the hundred: each would be compiled anew where no bytecode is kept.
test faults faults-short: export PYTHONDONTWRITEBYTECODE :=

# As many processes as there are cores, at most four. Tests that measure time run after the others,
# in one process, which reads the files of such tests only. -rs says which tests were skipped and why.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal -rs
TESTS := not faults and not bench and not browser
WITH_ALONE := grep -rl --include='test_*.py' mark.alone

test: $(READY)
	$(BIN)/pytest $(PARALLEL) -m "$(TESTS) and not short and not alone"
	$(BIN)/pytest -rs -m "$(TESTS) and not short and alone" $$($(WITH_ALONE) tests)

# The fault tests with a few rounds each.
faults-short: $(READY)
	$(BIN)/pytest $(PARALLEL) -m "short and not alone" tests/faults
	$(BIN)/pytest -rs -m "short and alone" $$($(WITH_ALONE) tests/faults)

check: $(READY)
	$(BIN)/ruff format --check . docs/*.py
	$(BIN)/ruff check . docs/*.py
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy --explicit-package-bases plugins/csv plugins/hubspot plugins/salesforce \
		plugins/sumotext.py plugins/webhook.py
	MYPYPATH=.:tests $(BIN)/mypy --explicit-package-bases docs/generate.py docs/build.py

format: $(READY)
	$(BIN)/ruff format . docs/*.py
	$(BIN)/ruff check --fix . docs/*.py

# Measures, on a quiet machine with two cores; prints its figures. Ten minutes long, or two.
bench: $(READY)
	$(BIN)/python tests/bench/run.py

bench-quick: $(READY)
	$(BIN)/python tests/bench/run.py --quick

# Kills, power cuts and floods; an hour long. As root, and with strace and fuse3, all of it runs.
faults: $(READY)
	$(BIN)/pytest -m faults -s --timeout 3600 -o faulthandler_timeout=0

# Callbacks for an hour, with random faults; or as many seconds as you like: make soak SECONDS=600
SECONDS := 3600
soak: $(READY)
	$(BIN)/python tests/faults/soak.py $(SECONDS)

# A Salesforce org and a HubSpot account on loopback, and what to put into relay.yaml for them.
stubs: $(READY)
	@exec env PYTHONPATH=tests $(BIN)/python -m stubs $(STUB_PORTS)

# The documentation site, in build/site: its own packages, in .venv-docs, are installed once.
DOCS_READY := .venv-docs/.ready

docs: $(DOCS_READY)
	.venv-docs/bin/python docs/build.py

# The reference pages of docs/reference, from the code.
reference: $(READY)
	$(BIN)/python docs/generate.py

clean:
	rm -rf build .cache .venv-docs .venv .mypy_cache .pytest_cache .ruff_cache

$(DOCS_READY): docs/requirements.txt
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name it: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'Python lacks its venv module here: sudo apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $@
