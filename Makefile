# Everything a person types. CI calls the same targets.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.set-up

.PHONY: run test setup check format demo bench bench-load gpu-check

run: $(STAMP)
	$(PY) -m voxtral_worker

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --cov --cov-report=
	$(PY) -m coverage report --skip-covered --fail-under=90
	$(PY) -m coverage report --fail-under=100 --include='*/sessions/*,*/turns/detector.py,*/engine/scheduler.py,*/engine/conversation.py'

setup: $(STAMP)

$(STAMP): builder/requirements.txt builder/requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r builder/requirements-dev.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

check: $(STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: $(STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

demo: $(STAMP)
	$(PY) -m bench.demo $(URL)

bench: $(STAMP)
	$(PY) -m bench

bench-load: $(STAMP)
	$(PY) -m bench.load

gpu-check: $(STAMP)
	$(PY) -m bench.gpu_check
