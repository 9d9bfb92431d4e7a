.PHONY: install quickstart test lint lock screenshots
PYTHON ?= python3
RUN ?= runs/quickstart
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

install: $(VENV)/.dev  ## everything that development needs

quickstart: $(VENV)/.installed  ## a real log to a report, in minutes
	$(BIN)/python scripts/run.py --config configs/quickstart.yaml

test: lint  ## ruff, pyright and pytest, without a network
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

screenshots: $(VENV)/.installed  ## the README's picture anew, by Chromium; of another run: RUN=runs/NAME
	$(BIN)/python scripts/screenshots.py --run $(RUN)

lock: .lock/bin/python  ## constraints.txt anew, of the newest versions that pyproject.toml allows
	.lock/bin/python -m pip install --quiet --disable-pip-version-check --upgrade torch -e '.[dev]'
	.lock/bin/python -m pip freeze --exclude-editable > .lock/frozen
	sed 's/+.*//' .lock/frozen | grep -v '^nvidia-\|^cuda-\|^triton' > .lock/constraints.txt
	mv .lock/constraints.txt constraints.txt
	rm -rf .lock

.lock/bin/python:
	$(PYTHON) -m venv .lock

$(VENV)/bin/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'EventScribe needs Python 3.11 or newer')"
	$(PYTHON) -m venv $(VENV)

# torch is named first: without the pin pip would fetch the newest build, with gigabytes of CUDA on a CPU machine.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing EventScribe into $(VENV) (a minute or two)"
	$(PIP) torch -e '.[examples]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) torch -e '.[dev]'
	@touch $@
