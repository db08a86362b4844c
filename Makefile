# Everything runs in a virtual environment of its own, made on first use.
# Another Python:   make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SUPPORTED := 3.11 3.12 3.13

# One worker runs a whole file, so that what its tests share is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
SLOW := --slow --replicas 8

# Without compiled files every process would compile TensorFlow's sources again (6 s of CPU).
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-all faults coverage lint bench gpu-check matrix kills picture \
  test-all-pythons

help:
	@echo 'make demo               train on handwritten digits, watched, and show what changed'
	@echo 'make test               every law, in five minutes on two cores'
	@echo 'make test-all           the same and what is slow: examples, programs, workers, a browser'
	@echo 'make faults             plant faults one by one, and see that make test catches each'
	@echo 'make coverage           what of the package make test runs, with a lower bound'
	@echo 'make lint               style, format and types'
	@echo 'make bench              what watching costs, as watched/unwatched step time'
	@echo 'make gpu-check          truth, untouched training and cost on the GPUs of this machine'
	@echo 'make matrix             every strategy x model kind x mode (half an hour or so)'
	@echo 'make kills              kill 300 writers at random moments, and look at what they left'
	@echo 'make picture            draw the picture of the README anew'
	@echo 'make test-all-pythons   make test on each supported Python found here'

demo: $(READY)
	$(BIN)/distwatch demo
	@echo 'These commands are in $(BIN): . $(BIN)/activate'

test: $(READY)
	$(PYTEST)

test-all: $(READY)
	$(PYTEST) $(SLOW)

faults: $(READY)
	$(BIN)/python tests/planted_faults.py

coverage: $(READY)
	$(PYTEST) --cov=distwatch --cov-report=term:skip-covered

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python tests/benchmarks/step_time.py

gpu-check: $(READY)
	$(BIN)/python tests/gpu_check.py

matrix: $(READY)
	$(BIN)/python -m pytest -n 2 $(SLOW) --whole-matrix tests/training/test_matrix.py

kills: $(READY)
	$(BIN)/python tests/store/kills.py

picture: $(READY)
	$(BIN)/python examples/find_the_skewed_replica.py runs/picture
	$(BIN)/distwatch report runs/picture/skewed.zarr -o runs/picture/report.html \
	  --png runs/picture/png --signals loss
	cp runs/picture/png/curves-loss.png examples/odd_replica.png

test-all-pythons:
	@for v in $(SUPPORTED); do \
	  if python$$v -c '' 2>/dev/null; then \
	    echo "== Python $$v"; \
	    $(MAKE) test PYTHON=python$$v VENV=.venv-$$v || exit 1; \
	  else echo "== Python $$v is not here"; fi; \
	done

# The stamp is written last, so an interrupted set-up is done again; a pyproject.toml
# that is newer than the stamp is installed anew.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' || \
	  { echo 'distwatch needs Python 3.11 to 3.13; name one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo '$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv' >&2; exit 1; }
	@echo 'Setting up $(VENV); this takes a few minutes and happens once.'
	@$(PYTHON) -m venv $(VENV)
	@echo '*' > $(VENV)/.gitignore
	@$(PIP) install --upgrade pip
	@$(PIP) install -e '.[dev]'
	@touch $@
