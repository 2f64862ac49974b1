# The commands of the README. Each installs what it needs first (see cmake/bootstrap.sh), so that they work in a
# fresh clone; `SKIP_BOOTSTRAP=1` leaves the machine alone.
SHELL := /bin/bash
PRESET ?= release
VENV ?= $(CURDIR)/.venv
PYTHON := $(VENV)/bin/python
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
SEED ?= 1

.PHONY: quickstart test build bootstrap configure test-cpp test-python test-gpu bench coverage docs stubs clean help \
  soak fuzz sanitize \
  format lint lint-all lint-format lint-python lint-layers lint-tidy lint-docs

help:
	@echo "make quickstart   install, build, train a sparse network on real images, print its table"
	@echo "make test         install, build, run every test (C++ and Python)"
	@echo "make build        install and build"
	@echo "make test-gpu     build and run what needs a CUDA device"
	@echo "make bench        measure the kernels beside their peers"
	@echo "make coverage     line coverage of the C++ library by its tests"
	@echo "make soak         kill two runs a hundred times and compare them with unbroken ones"
	@echo "make fuzz         fuzz every reader, SECONDS=60 each"
	@echo "make sanitize     the C++ tests under the sanitizers, the readers under valgrind"
	@echo "make stubs        write python/glyptic/_C.pyi from the built binding"
	@echo "make lint         formats, types, layers, links and commands of the docs"
	@echo "make lint-tidy    clang-tidy on what differs from origin/main"
	@echo "make lint-all     lint, and clang-tidy on every source"
	@echo "make docs         write docs/reference.md from the declarations"

bootstrap:
ifndef SKIP_BOOTSTRAP
	@cmake/bootstrap.sh "$(VENV)" $(BOOTSTRAP_FOR)
endif

$(BUILD)/build.ninja: | bootstrap
	@cmake --preset $(PRESET) -DGLYPTIC_PYTHON="$(PYTHON)" $(CMAKE_ARGS)

configure: bootstrap $(BUILD)/build.ninja

build: configure
	@cmake --build --preset $(PRESET) -j $(JOBS)

RUN_DIR ?= runs/quickstart
quickstart: build
	@rm -rf "$(RUN_DIR)"
	@$(BUILD)/bin/glyptic run configs/sparsity/chase_mnist.yaml --out "$(RUN_DIR)" --set seed=$(SEED)

test test-python: BOOTSTRAP_FOR = test
test: build test-cpp test-python

# Waiting threads sleep instead of spinning: tests run side by side, on small tensors.
test-cpp test-python: export OMP_WAIT_POLICY = PASSIVE

test-cpp: build
	ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error

test-python: build
	PYTHONPATH="$(CURDIR)/$(BUILD)/python" GLYPTIC_BUILD="$(CURDIR)/$(BUILD)" $(PYTHON) -m pytest tests/python -q

test-gpu:
	@cmake/test_gpu.sh "$(PYTHON)"

bench: build
	PYTHONPATH="$(CURDIR)/$(BUILD)/python" $(PYTHON) benchmarks/peers/kernels.py

KILLS ?= 100
soak: build
	GLYPTIC_BUILD="$(CURDIR)/$(BUILD)" $(PYTHON) tests/soak/soak.py --kills $(KILLS) --seed $(SEED) --json $(BUILD)/soak.json

# SECONDS is also bash's clock, so it does not come from the environment.
SECONDS := 60
fuzz: bootstrap
	@cmake/fuzz.sh "$(PYTHON)" "$(SECONDS)" $(TARGETS)

sanitize: bootstrap
	@cmake/sanitize.sh "$(PYTHON)" "$(JOBS)" $(KINDS)

coverage: bootstrap
	@cmake/coverage.sh "$(PYTHON)" "$(JOBS)"

stubs: build
	PYTHONPATH="$(CURDIR)/$(BUILD)/python" $(PYTHON) python/make_stubs.py

docs: build
	$(BUILD)/bin/glyptic describe --markdown > docs/reference.md

format:
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' '*.c' | xargs clang-format -i

lint: lint-format lint-python lint-layers lint-docs

lint-all: TIDY = --all
lint-all: lint lint-tidy

lint-format: bootstrap
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' '*.c' | xargs clang-format --dry-run -Werror

lint-python: bootstrap
	$(PYTHON) -m ruff check python tests benchmarks data cmake
	$(PYTHON) -m mypy --strict python/glyptic cmake/lint_layers.py cmake/lint_tidy.py

lint-layers: bootstrap
	$(PYTHON) cmake/lint_layers.py

# clang-tidy reads the precompiled header as the compiler does.
lint-tidy: build
	$(PYTHON) cmake/lint_tidy.py $(BUILD) --jobs $(JOBS) $(TIDY)

lint-docs: build
	PYTHONPATH="$(CURDIR)/$(BUILD)/python" $(PYTHON) -m pytest tests/python/test_docs.py -q -k "links or commands or checker"

clean:
	rm -rf build
