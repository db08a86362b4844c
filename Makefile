# Everything runs in a virtual environment of its own, made on first use.
# Another Python:   make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SUPPORTED := 3.11 3.12 3.13

# One worker runs a whole file, so that what its tests share is made once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile
REPLICAS := --replicas 8

# Without compiled files every process would compile TensorFlow's sources again (6 s of CPU).
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-all faults coverage lint docs bench gpu-check matrix fuzz kills verdicts picture \
  test-all-pythons test-installing test-oldest oldest dist

help:
	@echo 'make demo               train on digits with odd data on one replica, name it, write a report'
	@echo 'make test               every law, in five minutes on two cores'
	@echo 'make test-slow          what is slow: examples, programs, workers, a browser, every pair of cases'
	@echo 'make test-all           both, one after the other'
	@echo 'make faults             plant faults one by one, and see that make test catches each'
	@echo 'make coverage           what of the package make test runs, with a lower bound'
	@echo 'make lint               style, format and types'
	@echo 'make docs               the documentation as a website, in site/'
	@echo 'make bench              what watching costs, a step and before the first'
	@echo 'make gpu-check          truth, untouched training and cost on the GPUs of this machine'
	@echo 'make matrix             every strategy x model kind x mode, pair of the bits, and program x config (hours)'
	@echo 'make fuzz               train 500 configurations, and compare every row with NumPy (hours)'
	@echo 'make kills              kill writers and trainings at random moments, and look at what they left (hours)'
	@echo 'make verdicts           train what is healthy and what is not, and see what is said of it'
	@echo 'make picture            redraw the picture of the README'
	@echo 'make test-all-pythons   make test on each supported Python found here'
	@echo 'make test-installing    the wheel and the sdist, in new environments without TensorFlow'
	@echo 'make test-oldest        with the oldest versions of what distwatch needs (Python 3.11)'
	@echo 'make oldest             write .github/oldest.txt anew, from pyproject.toml (needs uv)'
	@echo 'make dist               build the sdist, and the wheel from it, into dist/'

# Of an environment for everything, where there is one; else of what the demo needs.
demo: $(if $(wildcard $(READY)),$(READY),$(DEMO_READY))
	$(BIN)/distwatch demo
	@echo 'These commands are in $(BIN): . $(BIN)/activate'

test: $(READY)
	$(PYTEST)

test-slow: $(VENV)/.loggers
	$(PYTEST) --only-slow $(REPLICAS)

test-all: test test-slow

faults: $(READY)
	$(BIN)/python tests/planted_faults.py

coverage: $(READY)
	$(PYTEST) --cov=distwatch --cov-report=term:skip-covered

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/python tests/benchmarks/step_time.py
	$(BIN)/python tests/benchmarks/first_step.py
	$(BIN)/python tests/benchmarks/peers.py

gpu-check: $(READY)
	$(BIN)/python tests/gpu_check.py

matrix: $(READY)
	$(BIN)/python -m pytest -n 2 --slow $(REPLICAS) --whole-matrix tests/training/test_matrix.py \
	  tests/training/test_bits.py tests/training/test_where_nan_began.py tests/test_unwatched_programs.py

fuzz: $(READY)
	$(BIN)/python tests/training/fuzz.py

kills: $(READY)
	$(BIN)/python tests/store/kills.py
	$(BIN)/python tests/store/contenders.py
	$(BIN)/python tests/training/killed_trainings.py

verdicts: $(READY)
	$(BIN)/python tests/findings/verdicts.py

picture: $(READY)
	$(BIN)/python examples/find_the_skewed_replica.py runs/picture
	$(BIN)/distwatch report runs/picture/skewed.zarr -o runs/picture/report.html \
	  --png runs/picture/png --signals loss
	cp runs/picture/png/curves-loss.png docs/images/odd_replica.png

test-all-pythons:
	@for v in $(SUPPORTED); do \
	  if python$$v -c '' 2>/dev/null; then \
	    echo "== Python $$v"; \
	    $(MAKE) test PYTHON=python$$v VENV=.venv-$$v || exit 1; \
	  else echo "== Python $$v is not here"; fi; \
	done

test-installing: $(READY)
	$(BIN)/python -m pytest --slow tests/test_installing.py

dist: $(READY)
	$(BIN)/python -m build

# One test module a law, and the reading side: enough to see a version that does not do.
OLD := .venv-oldest
OLD_TESTS := tests/store/test_format.py tests/store/test_encoding.py \
  tests/store/test_old_stores.py tests/statistics tests/signals tests/config \
  tests/cli/test_commands.py tests/cli/test_report.py tests/export tests/event_files \
  tests/training/test_truth.py tests/training/test_tracker.py \
  tests/training/test_untouched.py tests/training/test_weights_and_gradients.py \
  tests/training/test_nothing_missed.py

# Not the shipped JSON Schema: an older pydantic words it differently.
test-oldest: $(OLD)/.ready
	$(OLD)/bin/python -m pytest --replicas 8 $(OLD_TESTS) \
	  --deselect tests/config/test_schema.py::test_the_shipped_one_is_that_of_today

oldest:
	uv pip compile --quiet --upgrade --resolution lowest-direct --python-version 3.11 \
	  --constraint .github/oldest.in --extra test --no-annotate --custom-compile-command 'make oldest' \
	  pyproject.toml -o .github/oldest.txt

$(OLD)/.ready: pyproject.toml .github/oldest.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo 'The oldest versions are those for Python 3.11: make test-oldest PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -m venv $(OLD)
	@echo '*' > $(OLD)/.gitignore
	@$(OLD)/bin/python -m pip install --quiet -c .github/oldest.txt -e '.[test]'
	@touch $@

# The stamp is written last, so an interrupted set-up is done again; a pyproject.toml
# that is newer than the stamp is installed anew.
$(READY): EXTRA := dev
$(DEMO_READY): EXTRA := demo
$(READY) $(DEMO_READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' || \
	  { echo 'distwatch needs Python 3.11 to 3.13; name one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo '$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv' >&2; exit 1; }
	@echo 'Setting up $(VENV) with [$(EXTRA)]; this takes a few minutes and happens once.'
	@$(PYTHON) -m venv $(VENV)
	@echo '*' > $(VENV)/.gitignore
	@$(PIP) install --upgrade pip
	@$(PIP) install -e '.[$(EXTRA)]'
	@touch $@

# Loggers of others, which nothing but a few slow tests needs.
$(VENV)/.loggers: $(READY)
	@$(PIP) install -e '.[loggers]'
	@touch $@
