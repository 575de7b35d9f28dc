# make demo, make test: all that a fresh clone needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CPP := $(shell git ls-files 'csrc/*.h' 'csrc/*.inc' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 2>/dev/null)
# Rebuilt when the sources of the package change.
SOURCES := $(shell find csrc pydelta triton_kernels -name '*.h' -o -name '*.inc' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh') \
	setup.py pyproject.toml constraints.txt

# Without a GPU nothing would run the CUDA extension: it is left out, and the suite builds it by itself.
export PYDELTA_CUDA ?= $(shell nvidia-smi --list-gpus >/dev/null 2>&1 && echo auto || echo 0)

.PHONY: demo test lint sanitize bench docs architectures clean

$(VENV)/demo: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/dev: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/demo

demo: $(VENV)/demo  ## fine-tune eight networks, compress them into one store, get each back
	$(BIN)/pydelta demo --out demo --force

test: $(VENV)/dev  ## the whole suite, two files at a time
	$(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

# The extension with AddressSanitizer and UBSan in a folder of its own, and the kernels' tests on it.
build/sanitize/done: $(VENV)/dev
	rm -rf build/sanitize
	PYDELTA_SANITIZE=address,undefined $(BIN)/pip install --quiet --no-deps --target build/sanitize .
	touch $@

KERNELS := hadamard sign_flip rotate superpose retrieve magnitude_threshold mask_rescale merge_into quantize codes \
	superposed_linear vera_matrix square_sums sam_perturb_ sam_restore_ adamr_step_
KERNEL_TESTS := $(patsubst %,tests/ops/test_%.py,$(KERNELS))
sanitize: build/sanitize/done  ## the kernels' tests under the sanitizers
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/sanitize $(BIN)/pytest -n 2 --dist loadfile -k cpu $(KERNEL_TESTS)

bench: $(VENV)/dev  ## every op beside a copy, torch and the peers
	$(BIN)/pytest bench

architectures: $(VENV)/dev  ## model classes of transformers through a store; writes docs/architectures.md
	$(BIN)/python tests/architectures/run.py --table docs/architectures.md

docs: $(VENV)/dev  ## the pages as a site in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build demo pydelta/*.so
