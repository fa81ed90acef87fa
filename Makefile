# Two commands do everything: `make demo` shows the main job, `make test` proves it.
# Both make .venv/ from requirements.lock first, with the native libraries and the console script.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
SOURCES := $(shell find csrc -type f) setup.py deeplab_repro/native/build.py

.PHONY: demo train-demo test check lint docs cuda cuda-report bench wheel clean

$(READY): requirements.lock pyproject.toml $(SOURCES)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

demo: $(READY)
	@BIN=$(BIN) sh weights/demo.sh

# Train the bundled network again, from drawn pictures; takes minutes, and writes its score.
train-demo: $(READY)
	@BIN=$(BIN) sh weights/train_demo.sh

# With it, pytest would rewrite the assertions of all tests in each process and each run anew, and
# every command that a test starts would compile the package.
unexport PYTHONDONTWRITEBYTECODE

# One process a core; those that finish early take tests from the others.
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

test: $(READY)
	$(PYTEST)

# For while one works: all but the tests that take more than a second or two.
check: $(READY)
	$(PYTEST) -q -m "not slow and not cuda"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	find csrc tests \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 \
		| xargs -0 $(BIN)/clang-format --dry-run -Werror

# The site with guides and API reference: docs/_build/html/index.html. Runs docs/notebook.ipynb.
docs: $(READY)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

# Compile the CUDA library; needs nvcc, but neither a GPU nor a CUDA build of torch.
cuda: $(READY)
	DEEPLAB_REPRO_BUILD=cuda $(BIN)/deeplab-repro build

# Registers, shared memory and spills of each kernel on each architecture; fails if one spills.
cuda-report: $(READY)
	$(BIN)/python benchmarks/cuda_report.py

bench: $(READY)
	$(BIN)/python benchmarks/forward.py
	$(BIN)/python benchmarks/convert.py

# One wheel of the platform for every Python and every torch from 2.10 on, the CPU library inside.
wheel: $(READY)
	DEEPLAB_REPRO_BUILD=cpu $(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
		--no-build-isolation --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist demo_output docs/_build deeplab_repro/lib *.egg-info
