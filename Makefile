# Every target sets up what it needs: python3 >= 3.11 with venv, g++, make and perl are enough.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
MODEL ?= digits
VOLTAGE ?=
TEST ?= all
WAVES ?=
ROWS ?= 4
COLS ?= 4
JOBS ?= 2
# Static timing needs programs that only a distribution has: it is run by itself.
BENCHMARKS := $(filter-out static_timing,$(basename $(notdir $(wildcard benchmarks/*.py))))

# Each worker of the tests and each process that they start imports the same modules: compiled once, whatever the
# environment says.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help venv demo test quick lint sim bench soak formal readme clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# torch comes first and alone, so that nothing else can choose its build. The stamp comes last, so that an interrupted
# set-up is taken up again.
$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch setuptools
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

venv: $(READY) ## Create .venv with the project and its tools

demo: $(READY) ## Ten pictures on the RTL: nominal, undervolted, with rollback; MODEL=digits|mnist|emoji VOLTAGE=0.67
	$(PY) -m brownout.host.demo --model $(MODEL) $(if $(VOLTAGE),--voltage $(VOLTAGE))

# mypy does not follow the import hook of an editable installation: it gets the same packages as a folder of links.
lint: $(READY) ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	mkdir -p build/typecheck/brownout
	for part in hw cosim host rtl; do ln -sfn ../../../$$part build/typecheck/brownout/$$part; done
	MYPYPATH=build/typecheck $(VENV)/bin/mypy -p brownout.hw -p brownout.cosim -p brownout.host
	MYPYPATH=build/typecheck:benchmarks $(VENV)/bin/mypy --scripts-are-modules benchmarks/*.py

test: $(READY) ## All quick tests, with ruff and mypy beside them
	$(MAKE) --no-print-directory -j 2 lint quick

quick: $(READY)
	$(PY) -m pytest -n $(JOBS) --dist loadgroup -m "not soak and not formal and not readme"

readme: $(READY) ## The Python of the README, as printed
	$(PY) -m pytest tests/test_readme.py -m readme

soak: $(READY) ## Long random sweeps of the RTL, and random kills of processes
	$(PY) -m pytest -n $(JOBS) -m soak

formal: $(READY) ## Proofs about the units with a solver; traces of counterexamples in build/formal
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,formal]'
	$(PY) -m pytest -n $(JOBS) -m formal tests/formal

sim: $(READY) ## cocotb testbenches; TEST=name WAVES=1|fst ROWS=4 COLS=4
	$(PY) -m brownout.cosim.run_tests --test $(TEST) --rows $(ROWS) --cols $(COLS) $(if $(WAVES),--waves $(if $(filter fst,$(WAVES)),fst,vcd))

# mrfi asks for torchvision, which it does not use and which would choose its own torch; what it uses stands in the
# bench extra. The benchmark leaves it out where it cannot be installed.
bench: $(READY) ## All benchmarks; results in build/results
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	-$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps mrfi
	set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(PY) benchmarks/$$name.py; done

clean: ## Remove build products (the virtual environment stays)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
