# `make study` and `make test` do all their own set-up: Python 3.10 or later with venv and pip is enough.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs/first
BIN := $(VENV)/bin
OLDEST_TIMM := 1.0.20

.PHONY: study test lint unit oldest-timm clean

# train the five stages on the built-in data set and say which step helped
study: $(VENV)/.study
	$(BIN)/convnext-ablation study --data typefaces --design stages --seeds 0 1 2 --output $(RUNS)

test: lint unit oldest-timm

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# two processes, one thread each: torch's own threads would only get in each other's way
unit: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --cov --cov-fail-under=90 tests

# the models against the oldest timm supported, with the same torch
oldest-timm: $(VENV)/.test .cache/timm-$(OLDEST_TIMM)
	OMP_NUM_THREADS=1 PYTHONPATH=.cache/timm-$(OLDEST_TIMM) $(BIN)/pytest -n 2 tests/test_zoo.py tests/test_network.py tests/test_training.py

.cache/timm-$(OLDEST_TIMM): | $(VENV)/.test
	$(BIN)/pip install --quiet --no-deps --target $@.partial timm==$(OLDEST_TIMM)
	mv $@.partial $@

# one environment; `test` adds its tools to what `study` needs
$(VENV)/.study: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -e '.[study]'
	touch $@

$(VENV)/.test: $(VENV)/.study
	$(BIN)/pip install --quiet -e '.[study,test]'
	touch $@

clean:
	rm -rf $(VENV) .cache
