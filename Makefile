# Needs Python 3.11+, a C++17 compiler and make; everything else is installed into .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint native bench clean

demo: $(VENV)/demo.stamp ## install, write a synthetic CT + RTSTRUCT study, convert it, show what came out
	rm -rf demo && mkdir demo
	$(BIN)/gpuprep synth demo/dicom
	$(BIN)/gpuprep nnunet --modalities CT,RTSTRUCT --roi-match-yaml demo/dicom/roi_patterns.yaml \
	    --mask-saving-strategy region_mask demo/dicom demo/nnunet_ready
	@cd demo && find nnunet_ready -type f | sort

test: $(VENV)/test.stamp lint ## lint, types, imports, all tests
	$(BIN)/pytest -q -n logical --maxprocesses 4 --dist worksteal

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

SOURCES := pyproject.toml $(shell find gpuprep kernels -type f -not -path '*/_kernels/*' -not -name '*.pyc')

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/demo.stamp: $(VENV)/bin/python $(SOURCES)
	@echo "installing: the kernels take a minute or two to compile"
	$(BIN)/python -m pip install -q .
	touch $@

$(VENV)/test.stamp: $(VENV)/bin/python $(SOURCES)
	@echo "installing: the kernels take a minute or two to compile"
	$(BIN)/python -m pip install -q ".[test]"
	touch $@

native: ## build the host library into the source tree, to work without reinstalling: PYTHONPATH=. pytest
	cmake -S kernels/host -B build/native -DCMAKE_BUILD_TYPE=Release
	cmake --build build/native -j $(shell getconf _NPROCESSORS_ONLN)
	cmake --install build/native --prefix .

bench: $(VENV)/test.stamp ## every benchmark, against the peers that are installed
	$(BIN)/python -m pip install -q ".[bench,masks]"
	status=0; for script in benchmarks/bench_*.py; do $(BIN)/python $$script || status=1; done; exit $$status

clean:
	rm -rf build demo $(VENV) gpuprep/_kernels
