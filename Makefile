# How Much Is Enough?  Two commands: `make book` and `make test`. `make help` lists the rest.

PYTHON ?= python3
SHELL := /bin/sh
PY := .venv/bin/python
ENOUGH := $(PY) -m enough.cli

ifneq ($(firstword $(sort 3.81 $(MAKE_VERSION))),3.81)
$(error this book needs GNU make 3.81 or newer, and this is $(MAKE_VERSION))
endif

# The notebooks run small and on the CPU unless the caller says otherwise.
ENOUGH_PRESET ?= cpu
ENOUGH_DEVICE ?= cpu
export ENOUGH_PRESET ENOUGH_DEVICE

.PHONY: book test help env lint format notebooks claims chapter chapter-run record bench serve launch student instructor grade links reproducible oracles kernels clean
.NOTPARALLEL:

book: env  ## build the HTML book from nothing and print where to open it
	@$(ENOUGH) book

test: env  ## run everything that can fail: units, notebooks, pairs, contract, pages
	@$(ENOUGH) test $(ARGS)

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -e 's/:[^#]*## /|/' | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

env:  ## make the environment .venv, or say that it is ready
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: this book needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing): name one with 'make PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) pyfiles/house.py

lint: env  ## check style, formatting and spelling
	@$(ENOUGH) lint

format: env  ## format the sources in place
	@$(PY) -m ruff check --fix-only -q . && $(PY) -m ruff format -q .

notebooks: env  ## write the notebooks from their twins
	@$(ENOUGH) notebooks

claims: env  ## NAME=part/name: execute a notebook, store its claim lines, show what changed
	@$(ENOUGH) claims "$(NAME)"

chapter: env  ## NAME=part/name: write the skeleton of a new chapter
	@$(ENOUGH) chapter "$(NAME)"

chapter-run: env  ## NAME=part/name: from an edit of one chapter to its page
	@$(ENOUGH) chapter-run "$(NAME)"

record: env  ## [NAME=part/name] [PRESET=gpu]: run chapters at larger presets here, keep their tables
	@$(ENOUGH) record $(if $(NAME),"$(NAME)") $(if $(PRESET),--preset $(PRESET)) $(if $(DEVICE),--device "$(DEVICE)")

bench: env  ## run the side-by-side comparisons
	@$(ENOUGH) bench

serve: env  ## serve the built book on 127.0.0.1:8000
	@$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

launch: env  ## OUT=folder: write the notebooks for Colab and Binder in plain Markdown
	@$(ENOUGH) launch "$(OUT)"

student: env  ## OUT=folder: write notebooks without solutions, a check under each exercise
	@$(ENOUGH) student $(if $(OUT),"$(OUT)")

instructor: env  ## OUT=folder: write notebooks with solutions and outputs
	@$(ENOUGH) instructor $(if $(OUT),"$(OUT)")

grade: env  ## SUBMISSION=notebook: run a student's notebook and count its points
	@$(ENOUGH) grade "$(SUBMISSION)"

links: env  ## ask every address of another host whether it answers (needs a network)
	@$(ENOUGH) links

reproducible: env  ## build the pages twice from one execution and compare them
	@$(ENOUGH) reproducible

oracles: env  ## rewrite tests/oracles/*.json with the answers of peer libraries
	@$(ENOUGH) oracles

kernels: env  ## test the GPU kernels on the CPU, in Triton's interpreter (Linux)
	@$(ENOUGH) kernels $(ARGS)

clean:  ## remove what was built, but not the environment
	rm -rf _build .pytest_cache .ruff_cache
