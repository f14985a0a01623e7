# make lab    the notebooks, in JupyterLab
# make test   everything that says the lab can be trusted
# make help   the other targets

# The first Python here that pyproject.toml allows.
PYTHONS := python3 python python3.13 python3.12 python3.11
ALLOWED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
ifndef PYTHON
PYTHON := $(shell for p in $(PYTHONS); do if $$p -c "$(ALLOWED)" 2>/dev/null; then echo $$p; break; fi; done)
endif

ifeq ($(OS),Windows_NT)
PY := .venv/Scripts/python
else
PY := .venv/bin/python
endif

# A stamp's name holds the hash of pyproject.toml: while that text stays, what was installed stays, without a network.
SHA256 := import hashlib; print(hashlib.sha256(open('pyproject.toml', 'rb').read()).hexdigest()[:16])
HASH := $(if $(PYTHON),$(shell $(PYTHON) -c "$(SHA256)"))
LAB := .venv/installed-lab-$(HASH)
TEST := .venv/installed-test-$(HASH)
BENCH := .venv/installed-bench-$(HASH)
# Python compiles what it imports; that pip compiles everything beforehand takes longer than all the imports.
INSTALL = $(PY) -m pip install --no-compile -e
# In the order of the lessons: the longest ones come early, and no processor waits for the other at the end.
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=120 --dist loadscope --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: lab test lint build bench clean help

lab: $(LAB)  ## JupyterLab on your copies of the lessons; ARGS="--no-browser --port 8899" goes to JupyterLab
	@$(PY) -m labkit lab $(ARGS)

test: $(TEST)  ## everything: style and types, tests, notebooks, a real browser
	@failed=; \
	stage() { \
	  name=$$1; shift; start=$$(date +%s); echo "== $$name"; "$$@" || failed="$$failed $$name"; \
	  echo "== $$name took $$(( $$(date +%s) - start )) s"; \
	}; \
	export OMP_WAIT_POLICY=PASSIVE; \
	log=$$(mktemp); \
	{ stage lint $(MAKE) --no-print-directory lint; [ -z "$$failed" ]; } >"$$log" 2>&1 & linting=$$!; \
	$(PY) -m labkit assets fetch || exit 1; \
	stage tests env OMP_NUM_THREADS=1 $(PY) -m pytest tests -n 2 --dist loadscope --ignore tests/test_browser.py; \
	wait $$linting || failed="$$failed lint"; cat "$$log"; rm -f "$$log"; \
	stage nbval env OMP_NUM_THREADS=1 $(PY) -m pytest notebooks -n 2 $(NBVAL); \
	stage browser $(PY) -m pytest tests/test_browser.py; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

lint: $(TEST)  ## ruff and mypy
	@$(PY) -m ruff format --check . && $(PY) -m ruff check . && $(PY) -m mypy

build: $(TEST)  ## build notebooks/*.ipynb from their .py; NOTEBOOKS="10_attention_sinks" for some of them
	@$(PY) -m labkit build $(NOTEBOOKS)

bench: $(BENCH)  ## speed and memory against peers, on this machine; NAMES="lm delta_rule" for some of them
	@$(PY) -m labkit bench $(NAMES)

clean:  ## remove the environment and what tools left behind; work/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

help:
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

$(PY):
	@if [ -z "$(PYTHON)" ]; then echo "labkit needs Python 3.11, 3.12 or 3.13 and found none among: $(PYTHONS)." \
	  "Install one, or name it: make lab PYTHON=/path/to/python3.12" >&2; exit 1; fi
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

$(LAB): | $(PY)
	$(INSTALL) .
	@touch $@

$(TEST): | $(PY)
	$(INSTALL) ".[test]"
	@$(PY) -m labkit.browser || $(PY) -m playwright install chromium || echo "The browser tests will be skipped." >&2
	@touch $@ $(LAB)

$(BENCH): $(TEST)
	$(INSTALL) ".[bench]"
	@touch $@
