# Every target sets up `.venv` first, which takes minutes once and nothing afterwards.
# The Python of the environment, once it is there; else python3, or the one you name: make test PYTHON=python3.12
PYTHON ?= $(shell test -x .venv/bin/python && echo .venv/bin/python || echo python3)
RUN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all lint format lock zoo reference docs bench

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## Make .venv: locked requirements, Detectron2, this package (editable)
	@command -v $(PYTHON) > /dev/null || { echo "set-up: no $(PYTHON) here: install Python 3.11 to 3.13, or name one with PYTHON=" >&2; exit 1; }
	@$(PYTHON) tools/bootstrap.py

MODEL ?= detr
quickstart: setup ## From data to a quantized detector (MODEL=detr, deformable or dab; QAT=1: trained on, too; ARGS=options)
	$(RUN) tools/quickstart.py --model $(MODEL) $(if $(filter-out 0,$(QAT)),--qat) $(ARGS)

test: setup ## Run the tests, without network
	HF_HUB_OFFLINE=1 $(RUN) -m pytest

test-all: setup ## Run all tests, the slow ones too
	$(RUN) -m pytest -m ""

lint: setup ## Check style, docstrings and formatting
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: setup ## Mend what lint finds, where that can be done
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# `via` comments name setup.py relative to here; no index address is written.
LOCK := .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
lock: setup ## Write requirements/*.txt again, keeping the versions that still fit (UPGRADE=--upgrade for new ones)
	$(LOCK) $(UPGRADE) -o requirements/build.txt requirements/build.in
	$(LOCK) $(UPGRADE) --extra dev --extra detectron2 --extra onnx --extra report --extra docs --extra fast-eval -c requirements/build.txt -o requirements/lock.txt setup.py requirements/lock.in

zoo: setup ## Write MODEL_ZOO.md from the entries of the model zoo
	$(RUN) tools/make_model_zoo.py

bench: setup ## Time everything, over two hours on 2 idle cores; then write benchmarks/README.md
	$(RUN) -m benchmarks.all

reference: setup ## Write docs/reference/config.md from the config keys
	$(RUN) tools/make_reference.py

docs: setup ## Build the site of docs/ in output/docs, without network
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	@echo "output/docs/index.html"
