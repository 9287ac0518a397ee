# `make demo` and `make test` set everything up in .venv on their first call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Of the 14 000 files few are ever imported: these are compiled then, the others not at all.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
FRAMES ?= 300
BENCHES := quality detectors residency parity tracker_speed soak kpi_overhead scrape_storm reconnect overload sources openigtlink_out control concepts recorder recorder_live offline transport lifecycle

.PHONY: demo test lint bench demo-weights clean

demo: $(READY)
	$(BIN)/maskstream run configs/demo.yaml --frames $(FRAMES)

# Three processes with a thread each for two cores: many tests wait for others.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
	    $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	for name in $(BENCHES); do $(BIN)/python -m benchmarks.$$name || exit 1; done
	$(BIN)/python -m benchmarks.parity --offline

demo-weights: $(READY)
	$(BIN)/python -m tools.demo_weights .cache/demo-weights

# sam2 comes as source only: built without its optional CUDA extension, against the torch that
# is already there (an isolated build would download another torch).
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools wheel torch torchvision hydra-core iopath tqdm pillow
	SAM2_BUILD_CUDA=0 $(INSTALL) --no-build-isolation --no-deps sam2
	$(INSTALL) -e '.[dev]'
	touch $@

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
