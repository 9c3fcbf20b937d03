# Deep ResNets at the Limit. `make` or `make help` lists what there is.
PRESET ?= standard
SEED   ?= 0
SEEDS  ?= $(SEED)
DEVICE ?=
PYTHON ?= python3
# Chapters side by side: one a core, but one at a time where they share a GPU that PyTorch sees.
GPU     = $(shell command -v nvidia-smi >/dev/null && $(BIN)/python -c "import torch; print('1' * torch.cuda.is_available())")
JOBS   ?= $(if $(filter cpu,$(DEVICE)),auto,$(if $(filter cuda%,$(DEVICE))$(GPU),1,auto))

ifeq ($(SEED),new)
override SEED := $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
$(if $(SEED),,$(error SEED=new could not read /dev/urandom; name an integer))
$(info SEED=new drew $(SEED); to repeat it: make $(strip $(MAKECMDGOALS) $(filter-out SEED=%,$(MAKEOVERRIDES)) SEED=$(SEED)))
endif

export DEEPLIMITS_PRESET = $(PRESET)
export DEEPLIMITS_SEED = $(SEED)
export DEEPLIMITS_DEVICE = $(DEVICE)

BIN := .venv/bin
READY := .venv/.installed
CODE := src tests tools _ext conftest.py $(wildcard benchmarks)
PYTEST := $(BIN)/python -m pytest -q
# Seconds after which a cell is taken to hang.
TIMEOUT_smoke := 120
TIMEOUT_standard := 1200
TIMEOUT_paper := 86400
$(if $(TIMEOUT_$(PRESET)),,$(error PRESET must be smoke, standard or paper, got '$(PRESET)'))

# $(call jupyter-book,BUILDER,FOLDER): build from the executed chapters, from scratch, warnings are errors.
define jupyter-book
@echo "Building the $(1) pages"
@rm -rf $(2)
@$(BIN)/jupyter-book build . --all -W --keep-going -q --builder $(1) --path-output $(2) >/dev/null
endef
RUN_CHAPTERS = $(PYTEST) -n $(JOBS) --dist loadfile --nbval-cell-timeout=$(TIMEOUT_$(PRESET)) chapters

# Of all chapters, those that show most of what can go wrong on a GPU, in the shortest time; options may come before.
ON_GPU := $(addprefix chapters/,phase/your-network.md scaling/smooth-weights.md training/stochastic-approximation.md)

.PHONY: help install book test test-gpu audit bench pdf clean
.DEFAULT_GOAL := help

help:
	@echo "make book     run every chapter and build the book in _build/html"
	@echo "make test     check everything: code, chapters, pages (at PRESET=smoke)"
	@echo "make test-gpu unit tests and all chapters on the GPU, or on a stand-in for one (at PRESET=smoke)"
	@echo "make audit    run every chapter at each of SEEDS=\"0 7\", and ask all their verdicts together"
	@echo "make bench    time the fast methods against plain loops"
	@echo "make pdf      print the book to _build/book.pdf (needs Chromium)"
	@echo "make install  only create .venv, which the others do by themselves"
	@echo "make clean    remove _build; remove .venv by hand"
	@echo
	@echo "PRESET=smoke|standard|paper   sizes of the experiments (standard)"
	@echo "SEED=<integer>|new            the seed of all random numbers (0); new draws one and says which"
	@echo "DEVICE=cpu|cuda|cuda:<index>  where to compute (CUDA if there is one, else the CPU)"
	@echo "JOBS=<integer>|auto           chapters side by side (one for each core; 1 where they share a GPU)"
	@echo "PYTHON=<program>              the Python >= 3.11 from which .venv is made (python3)"
	@echo
	@echo "For example: make book PRESET=smoke SEED=7"

# The stamp goes first and returns last: an installation that was interrupted begins anew.
$(READY): requirements.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"Python >= 3.11 is needed, \
	$(PYTHON) is {v[0]}.{v[1]}; name another one: make PYTHON=python3.12")'
	@if test -e $@; then rm $@; else rm -rf .venv; fi
	@echo "Installing the packages of requirements.txt into .venv; the first time takes a few minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.txt
	@touch $@

install: $(READY)

# The pages are built aside and put in place when they are complete.
book: $(READY)
	$(RUN_CHAPTERS)
	$(call jupyter-book,html,_build/work)
	@rm -rf _build/html
	@mv _build/work/_build/claims.json _build/claims.json
	@mv _build/work/_build/html _build/html
	@rm -rf _build/work
	@echo "The book is ready: open _build/html/index.html in a browser"
	@$(BIN)/python tools/verdicts.py _build/claims.json

test: PRESET = smoke
test: $(READY)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/nbqa "ruff check" chapters
	$(BIN)/nbqa "ruff format" --check chapters
	$(PYTEST) -n auto --ignore tests/book --cov=deeplimits --cov-report=term-missing:skip-covered --cov-fail-under=95 tests
	$(RUN_CHAPTERS)
	$(call jupyter-book,html,_build/test)
	DEEPLIMITS_SITE=_build/test/_build/html $(PYTEST) -n auto --dist worksteal -rs --tb=short tests/book
	$(BIN)/python tools/audit.py _build/test/_build/claims.json
	$(BIN)/python tools/on_gpu.py $(ON_GPU)

test-gpu: PRESET = smoke
test-gpu: $(READY)
	$(BIN)/python tools/on_gpu.py

# The ledgers alone, without pages; a seed whose chapters are in the cache takes seconds.
LEDGERS = $(foreach seed,$(SEEDS),_build/ledgers/$(PRESET)-$(seed).json)
audit: $(READY)
	@for seed in $(SEEDS); do \
	    export DEEPLIMITS_SEED=$$seed; echo "Seed $$seed"; \
	    $(RUN_CHAPTERS) && $(BIN)/python tools/collect.py _build/ledgers/$(PRESET)-$$seed.json || exit 1; \
	done
	$(BIN)/python tools/audit.py $(LEDGERS)

bench: $(READY)
	$(BIN)/python -m benchmarks

pdf: $(READY)
	@$(BIN)/python tools/pdf.py --check
	$(RUN_CHAPTERS)
	$(call jupyter-book,singlehtml,_build/pdf)
	@$(BIN)/python tools/pdf.py _build/pdf/_build/singlehtml/chapters/index.html _build/book.pdf
	@echo "The book is printed: _build/book.pdf"

clean:
	rm -rf _build tools/fakecuda/build
