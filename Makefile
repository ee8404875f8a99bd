# Everything a person types. CI calls the same targets.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
WORKER := $(VENV)/.set-up-worker
STAMP  := $(VENV)/.set-up-developer
# The library of the diagrams in the docs, a package of npm.
MERMAID := 11.16.0
# The address of PyTorch's builds for CPUs, for a machine without an NVIDIA driver.
export TORCH_INDEX

.PHONY: run test setup check format demo bench bench-load gpu-check verify turns-check lock clients docs

run: $(WORKER)
	$(PY) -m voxtral_worker

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	$(PY) -m coverage report --skip-covered --fail-under=90
	$(PY) -m coverage report --fail-under=100 --include='*/sessions/*,*/turns/detector.py,*/turns/endpoint.py,*/turns/events.py,*/turns/speech_meter.py,*/engine/scheduler.py,*/engine/conversation.py'

setup: $(STAMP)

# Each says what it fetches; two that are started at once take turns.
$(WORKER): builder/requirements.txt pyproject.toml
	@$(PYTHON) builder/set_up.py worker

$(STAMP): $(WORKER) builder/requirements-dev.txt
	@$(PYTHON) builder/set_up.py developer

# The frameworks of docs/clients.md, for tests/docs/clients/test_frameworks.py.
clients:
	$(PYTHON) -m venv .clients
	.clients/bin/pip install --quiet --disable-pip-version-check -r builder/requirements-clients.txt
	.clients/bin/pip install --quiet --disable-pip-version-check --no-deps instructor==1.17.0
	cp tests/docs/clients/frameworks/package.json .clients && npm install --silent --no-audit --no-fund --prefix .clients

# The docs as a site in .site (needs npm); a link that leads nowhere ends it. REPOSITORY=https://... for links to files.
docs: .docs/.set-up
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --strict --quiet

.docs/.set-up: builder/requirements-docs.txt
	$(PYTHON) -m venv .docs
	.docs/bin/pip install --quiet --disable-pip-version-check -r builder/requirements-docs.txt
	# The diagrams' library is a file of the site: readers load nothing from other servers.
	cd .docs && npm pack --silent mermaid@$(MERMAID) && tar -xzf mermaid-$(MERMAID).tgz package/dist/mermaid.min.js package/LICENSE
	touch $@

check: $(STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) -m builder.prose

format: $(STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

demo: $(WORKER)
	$(PY) -m bench.demo $(URL)

bench: $(STAMP)
	$(PY) -m bench

bench-load: $(STAMP)
	$(PY) -m bench.load

gpu-check: $(STAMP)
	$(PY) -m bench.gpu_check $(PARTS)

# The lock is made by the image's version of Python, in an environment of its own.
lock: $(STAMP)
	python3.12 -m venv .lock
	.lock/bin/python builder/lock.py $(PY)

# make verify MODEL_ID=owner/name [AUDIO=folder] [ARGS="--clips 2"]
verify: $(STAMP)
	MODEL_ID="$(MODEL_ID)" $(PY) -m bench.verify $(if $(AUDIO),--audio "$(AUDIO)") $(ARGS)

# make turns-check RECORDINGS=folder [ARGS="--ways 'semantic, medium'"]
turns-check: $(STAMP)
	$(PY) -m bench.turns_check "$(RECORDINGS)" $(ARGS)
