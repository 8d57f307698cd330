# qlab: each target first sets up what it needs (seconds when nothing changed). `make` alone lists the targets.

BIN := .venv/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
PYTEST := OMP_NUM_THREADS=1 QLAB_PROGRESS=0 $(BIN)/python -m pytest -q
# What passed on exactly these files is not run twice (AGAIN=1 runs it in any case); unit tests always run.
ONCE := $(BIN)/python scripts/once.py
PARALLEL := -n 2 --dist loadfile

.PHONY: help setup lab test lint book record bench demo fuzz test-llama-cpp clean
.DEFAULT_GOAL := help

help: ## list what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

setup: ## create .venv: PyTorch, qlab with its compiled kernels, the reference model and the texts
	@test -n "$(PYTHON)" || { echo "setup: no python3 on PATH; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) scripts/setup.py

lab: setup ## open JupyterLab on lesson 00 (prints the address where there is no display)
	@$(BIN)/python scripts/lab.py

test: setup ## check style, types and floors, run every test and lesson, build the book and open it in a browser
	@echo "== 1/5 style, types, floors"
	@$(MAKE) --no-print-directory lint
	@echo "== 2/5 unit and property tests"
	@$(PYTEST) $(PARALLEL) -m "not browser" tests
	@echo "== 3/5 lessons, output by output"
	@$(ONCE) lessons env $(PYTEST) $(PARALLEL) --nbval --nbval-sanitize-with tests/nbval.cfg notebooks
	@echo "== 4/5 book"
	@$(ONCE) book $(BIN)/python book/build.py
	@echo "== 5/5 browser tests"
	@$(ONCE) browser env $(PYTEST) -n 3 --dist load -m browser tests/book tests/lab
	@echo "== all passed"

lint: setup ## style, types and floors only
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

book: setup ## write book/_build/html (needs Node)
	@$(BIN)/python book/build.py

fuzz: setup ## read a hundred thousand mutated GGUF files and importance matrices (minutes)
	@$(BIN)/python scripts/fuzz_gguf.py --files 100000

test-llama-cpp: setup ## build llama.cpp once (ten minutes), then hold our GGUF files to it (an hour)
	@PYTHONPATH=$$($(BIN)/python scripts/build_llama_cpp.py) $(PYTEST) $(PARALLEL) --dist load tests/interop

record: setup ## make the recorded tables of data/records again (five hours)
	@$(BIN)/python scripts/make_record_ranking.py --windows 8
	@$(BIN)/python scripts/make_record_protocols.py --chunks 10
	@$(BIN)/python scripts/make_record_calibration.py --method gptq --windows 8
	@$(BIN)/python scripts/make_record_calibration.py --method awq --windows 8
	@$(BIN)/python scripts/make_record_methods.py
	@$(BIN)/python scripts/make_record_hessian.py
	@$(BIN)/python scripts/make_record_salient.py
	@PYTHONPATH=$$($(BIN)/python scripts/build_llama_cpp.py) $(BIN)/python scripts/make_record_ladder.py
	@$(BIN)/python scripts/make_record_imatrix.py
	@$(BIN)/python scripts/make_record_bit_widths.py
	@$(BIN)/python scripts/make_record_unpack_cost.py
	@PYTHONPATH=$$($(BIN)/python scripts/build_llama_cpp.py --fast) $(BIN)/python scripts/make_record_cpu_kernels.py
	@$(BIN)/python scripts/make_record_kernel_steps.py

bench: setup ## this machine's read ceiling, each operation beside a plain copy, each CPU kernel beside the ceiling
	@$(BIN)/python -m qlab.bench
	@$(BIN)/qlab bench cpu --types Q4_0,Q4_K,Q6_K,Q8_0 --shapes 4096x4096 --rounds 11

demo: setup ## the main job without a notebook: four recipes on the reference model, as a table
	@$(BIN)/qlab compare reference --specs int8-g128-asym,int4-g32-asym,int4-g128-asym,int3-g128-asym --tokens 4096

clean: ## remove what was built, and .venv (the model cache stays)
	rm -rf .venv build dist book/_build book/_static/vendor book/node_modules
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
