# `make demo` and `make test` set up everything they need in .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check clean

demo: $(VENV)/ready
	$(BIN)/vmferry demo

# More workers than processors, as many tests wait; each has neighbours of one file, which share servers and browsers.
test: $(VENV)/ready $(VENV)/libvirt check
	$(BIN)/pytest -n 4 --dist worksteal

check: $(VENV)/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $@

# libvirt-python is compiled against the libvirt that is installed; where that cannot be, its tests are left out.
$(VENV)/libvirt: $(VENV)/ready requirements-libvirt.lock
	-pkg-config --exists libvirt && $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -r requirements-libvirt.lock
	touch $@

clean:
	rm -rf $(VENV) build dist
