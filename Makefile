# `make study` and `make test` do all their own set-up: Python 3.10 or later with pip, make and git is enough.
PYTHON ?= python3
VENV ?= .venv
RUNS ?= runs/mini
BIN := $(VENV)/bin
OLDEST_TIMM := 1.0.20
# uv does not read pip's configuration
UV = $(BIN)/uv pip install --quiet --python $(BIN)/python $$($(BIN)/pip config list \
     | sed -n "s/^.*[.]index-url='\(.*\)'$$/--default-index \1/p; s/^.*[.]constraint='\(.*\)'$$/--constraint \1/p")
# one thread each: torch's own would only get in each other's way; file by file, since the tests of a file share what
# takes long to make, and in the order that tests/conftest.py gives: the longest first
ORDER := --dist loadfile --no-loadscope-reorder
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest $(ORDER)

# what runs beside other tests prints its last line, or all if it fails
reported = mkdir -p $(dir .cache/$@); if $(1) > .cache/$@.log 2>&1; \
    then echo "$@: $$(tail -n 1 .cache/$@.log)"; else cat .cache/$@.log; exit 1; fi

# a module is compiled by the first process that imports it; `uv --compile-bytecode` compiles six times as much as that
unexport PYTHONDONTWRITEBYTECODE

BENCHMARKS := $(filter-out benchmarks/common.py,$(wildcard benchmarks/*.py))

.PHONY: study test bench $(BENCHMARKS) lint style format types unit docs slurm-test oldest-timm avx2 clean

# pre-train the five stages on drawn characters, fine-tune them on two finer sets, and say which step matters where
study: $(VENV)/.study
	$(BIN)/convnext-ablation study mini --output $(RUNS)

# beside the others, as some tests wait
test: style
	$(MAKE) --no-print-directory -j 2 types unit oldest-timm avx2 docs

# the short form of every benchmark, which measures nothing: whether it runs; TIMM_REPO is timm's repository
bench:
	$(MAKE) --no-print-directory -j 2 -k $(BENCHMARKS)

$(BENCHMARKS): $(VENV)/.test
	@$(call reported,OMP_NUM_THREADS=1 $(BIN)/python $@ --short)

# style, types, the direction of imports and copied lines; `test` has the last two in `unit`
lint: style types
	$(BIN)/pytest -q tests/test_architecture.py

style: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mends what `lint` finds in style
format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.test
	@$(call reported,$(BIN)/mypy)

# lines are counted by probes in the bytecode, which torch.compile can't read: `avx2` has the test of that
unit: $(VENV)/.test
	mkdir -p .cache
	OMP_NUM_THREADS=1 $(BIN)/python -m slipcover --json --out .cache/lines.json -m pytest $(ORDER) -n 2 \
	    --durations=10 --deselect tests/test_network.py::test_network_is_traced_scripted_compiled_and_exported tests
	$(BIN)/python -m slipcover --merge .cache/lines.json --out .cache/merged.json --fail-under 90

# the documentation as a site, in .cache/site; a broken link is an error
docs: $(VENV)/.test
	@$(call reported,NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir .cache/site)

# studies as jobs of a Slurm of two nodes on this machine; as root, on Debian
slurm-test: $(VENV)/.test
	apt-get update -qq && apt-get install -y -qq slurm-wlm munge
	$(BIN)/pytest tests/test_study_clusters.py -k slurm

# the networks, the training and crafted checkpoints on the oldest timm that is supported, with the same torch,
# whose deprecations that timm could not know; without what torch alone exports and the networks' costs, which are the
# same there
oldest-timm: $(VENV)/.test .cache/timm-$(OLDEST_TIMM)
	@$(call reported,PYTHONPATH=.cache/timm-$(OLDEST_TIMM) $(PYTEST) -n 0 -k "not traced and not docs and not macs" \
	    -W ignore::FutureWarning -W ignore::DeprecationWarning tests/test_zoo.py tests/test_network.py \
	    tests/test_timm_suite.py tests/test_training.py tests/test_training_freeze.py \
	    tests/test_training_images.py \
	    tests/test_checkpoint_layouts.py::test_no_command_runs_what_a_file_names_whatever_its_ending)

# the networks and the training as the oldest supported processors compute them, where oneDNN takes other paths;
# without the test that sets instruction sets itself, and what computes nothing
avx2: $(VENV)/.test
	@$(call reported,ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PYTEST) -n 0 \
	    -k "not double_precision and not closed_formula" \
	    tests/test_network.py tests/test_network_property.py tests/test_training.py tests/test_training_cpu_convs.py)

.cache/timm-$(OLDEST_TIMM): | $(VENV)/.test
	rm -rf $@.partial
	@{ $(UV) --no-deps --target $@.partial timm==$(OLDEST_TIMM) \
	    || $(BIN)/pip install --quiet --no-deps --target $@.partial timm==$(OLDEST_TIMM); }
	mv $@.partial $@

# one environment for both; `test` adds its tools; by uv, in a third of pip's time, or by pip where uv cannot
$(VENV)/.study: EXTRAS := study
$(VENV)/.test: EXTRAS := study,export,test,docs
$(VENV)/.study $(VENV)/.test: setup.cfg pyproject.toml
	@echo "making the environment in $(VENV), some minutes the first time"
	@start=$$(date +%s); \
	    { test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } \
	    && $(BIN)/pip install --quiet uv \
	    && { $(UV) -e '.[$(EXTRAS)]' || $(BIN)/pip install --quiet -e '.[$(EXTRAS)]'; } \
	    && touch $(VENV)/.study $@ && echo "environment made in $$(($$(date +%s) - start)) s"

clean:
	rm -rf $(VENV) .cache
