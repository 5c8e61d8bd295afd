# The commands people type. `make help` lists them; everything lives in .venv, and nothing is installed twice.

##@ Variables of `make filter`
DATASET ?= sample#          sample, laion2b, laion400m, ... or custom
INPUT   ?=#                 manifests to read: a file or a quoted glob (the sample brings its own)
OUTPUT  ?= out/$(DATASET)#  folder for the results; run again with the same one to resume
PRESET  ?= paper#           paper, strict, paper-dedup or a YAML file: what is counted, and the thresholds
STAGES  ?=#                 comma-separated from captions,download,spotting,dedup,export (all that apply)
RUNNER  ?= direct#          direct (this machine), prism, flink or dataflow; see deploy/README.md
WORKERS ?=#                 units at a time: processes, or a cluster's slots (all)
SHARD   ?=#                 i/n: part i (from 0) of n invocations that share one OUTPUT; one without it finishes
ARGS    ?=#                 anything else for `python -m pipelines`; key=value for `make train`; for pytest with `make test`

##@ Variables of `make pilot`, besides those
UNITS   ?=#                 units to draw (20)
SHARE   ?=#                 share of the units to draw, instead

##@ Variables of `make concepts`
DATA    ?= out/sample#      output folder of `make filter`, with pictures
TEACHER ?= efficientnet-lite0#  or swag-vit-h14, timm:NAME, torchvision:NAME, open_clip:NAME (then with WEIGHTS)
WEIGHTS ?=#                 file of the teacher's weights (the default one's are installed)
HEADARGS ?=#                anything else for `python -m trainer.concepts`; ARGS for `python -m pipelines.concepts`

##@ Variables of `make train`
CONFIG  ?= tiny#            tiny, vit-b-32, vit-b-16, vit-l-14, vit-l-14-336, or a YAML file; DATA as above
WORKDIR ?= out/train#       folder for checkpoints, logs and the model; run again with the same one to go on

##@ Variables of `make bench`, with OUTPUT and ARGS
MODEL   ?= reference#       a folder that was exported, an architecture of open_clip, or reference: real weights offline
TASKS   ?= demo#            demo, diht29, a YAML file, or names of tasks, comma-separated
TASK    ?=#                 for `make bench-data`: what to fetch (demo, diht29, names, reference)

##@ Other variables
PYTHON  ?=#                 the Python (3.11 or newer) to build .venv with (found on PATH)
EXTRAS  ?= filter,dev#      what `make setup` and `make test` install (download adds the download of pictures); see setup.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup filter pilot test test-all test-runners lint bench-filter flink-up flink-down prism clean env-filter env-all env-ocr concepts env-concepts train bench-train bench bench-data bench-eval env-bench

comma := ,
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# An install is done when its stamp holds this key: the content of setup.py and the place of the checkout.
KEY := $(shell { cat setup.py; pwd; } | cksum | tr -d ' ')
CODE = $(wildcard filters pipelines trainer eval benchmarks deploy tests setup.py)
BEAM = $(shell sed -n 's/.*"apache-beam==\([0-9.]*\)".*/\1/p' setup.py)
BENCHES = captions verifier beam_overhead spotting overlap_false_positives dedup
TRAIN_BENCHES = losses train_step checkpoints loader
# OCR is set up unless the stages asked for do without it.
NEEDS_OCR = $(if $(STAGES),$(findstring spotting,$(STAGES)),yes)
# OUTPUT, where it was given; its default is that of `make filter`.
CONCEPTS = $(if $(filter file,$(origin OUTPUT)),$(DATA)/concepts,$(OUTPUT))
# OUTPUT has a default that is meant for `make filter`.
BENCH_OUTPUT = $(if $(filter file,$(origin OUTPUT)),,$(OUTPUT))
# A value as one word of the shell, whatever blanks, globs or quotes it holds; an option only where it has a value.
quote = '$(subst ','\'',$(1))'
option = $(if $(2), $(1) $(call quote,$(2)))

##@ Commands
help: ## List the commands and variables
	@awk '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[A-Z]+ *\?=/ { split($$0, a, /#  */); n = a[1]; sub(/ *\?=.*/, "", n); v = a[1]; sub(/^[^=]*= */, "", v); \
	    printf "  %-13s %s%s\n", n, a[2], v == "" ? "" : " [" v "]" } \
	  /^[a-z-]+:.*## / { n = $$0; sub(/:.*/, "", n); d = $$0; sub(/.*## /, "", d); printf "  %-13s %s\n", n, d }' Makefile

setup: env-all env-ocr ## Install everything: filters, OCR weights, development tools

filter: env-filter $(if $(NEEDS_OCR),env-ocr) ## Filter a data set (DATASET, INPUT, OUTPUT, ...)
	@set -f; $(PY) -m pipelines$(call option,--dataset,$(DATASET))$(call option,--input,$(INPUT))$(call option,--output,$(OUTPUT))$(call option,--preset,$(PRESET))$(call option,--stages,$(STAGES))$(call option,--runner,$(RUNNER))$(call option,--workers,$(WORKERS))$(call option,--shard,$(SHARD)) $(ARGS)

pilot: env-filter $(if $(NEEDS_OCR),env-ocr) ## Filter a random sample, forecast the whole (UNITS, SHARE, ARGS="--price-core-hour 0.04")
	@set -f; $(PY) -m pipelines.pilot$(call option,--dataset,$(DATASET))$(call option,--input,$(INPUT))$(if $(filter-out out/$(DATASET),$(OUTPUT)),$(call option,--output,$(OUTPUT)))$(call option,--preset,$(PRESET))$(call option,--stages,$(STAGES))$(call option,--runner,$(RUNNER))$(call option,--workers,$(WORKERS))$(call option,--units,$(UNITS))$(call option,--share,$(SHARE)) $(ARGS)
concepts: env-concepts ## Make concept targets of filtered data (DATA, TEACHER, WEIGHTS, OUTPUT, ...)
	@set -f; $(PY) -m pipelines.concepts --data $(call quote,$(DATA)) --output $(call quote,$(CONCEPTS)) --teacher $(call quote,$(TEACHER))$(call option,--weights,$(WEIGHTS))$(call option,--workers,$(WORKERS)) $(ARGS)
	@set -f; $(PY) -m trainer.concepts --concepts $(call quote,$(CONCEPTS)) $(HEADARGS)

train: env-concepts ## Train a model on filtered data (DATA, CONFIG, WORKDIR, ARGS)
	@set -f; $(PY) -m trainer --data $(call quote,$(DATA)) --config $(call quote,$(CONFIG)) --workdir $(call quote,$(WORKDIR)) $(ARGS)

test: env-all env-ocr ## Run the tests, without soak and flink
	@$(PY) -m pytest $(ARGS)

test-all: env-all env-ocr ## Run the tests with kill and soak (many minutes)
	@$(PY) -m pytest -m "not flink and not cluster" $(ARGS)

test-runners: env-all env-ocr ## Run the tests that need Flink, Prism, or Beam's Google Cloud part (minutes)
	@$(PY) -m pytest -rs -m "flink or cluster" tests/pipelines/runners tests/deploy $(ARGS)

lint: env-all ## Run ruff and mypy
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m mypy $(CODE)

bench-filter: env-all env-ocr ## Measure the filters: speed, hits, false positives
	@status=0; for bench in $(BENCHES); do echo "== $$bench"; $(PY) -m benchmarks.$$bench || status=1; done; exit $$status

flink-up: env-filter ## Start a standalone Flink with two slots on this machine, for RUNNER=flink (needs Java 17)
	@$(PY) deploy/flink/cluster.py up

flink-down: ## Stop it
	@$(if $(wildcard $(PY)),$(PY),python3) deploy/flink/cluster.py down

prism: ## Build Prism into .prism, for RUNNER=prism (needs Go)
	@if [ -x .prism/prism ] && [ "$$(cat .prism/version 2>/dev/null)" = "$(BEAM)" ]; then echo "Prism $(BEAM) is in .prism"; exit 0; fi; \
	if ! command -v go >/dev/null; then echo "error: Go 1.21 or newer was not found; Prism is built from Beam's Go module" >&2; exit 1; fi; \
	echo "Building Prism $(BEAM) ..."; \
	GOBIN="$$(pwd)/.prism" go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM) && echo "$(BEAM)" > .prism/version
bench-train: env-concepts env-all ## Measure the trainer against open_clip: step, losses, checkpoints
	@status=0; for bench in $(TRAIN_BENCHES); do echo "== $$bench"; $(PY) -m benchmarks.$$bench || status=1; done; exit $$status
bench: env-bench ## Evaluate a model (MODEL, TASKS, OUTPUT); nothing is downloaded
	@set -f; $(PY) -m eval$(call option,--model,$(MODEL))$(call option,--tasks,$(TASKS))$(call option,--output,$(BENCH_OUTPUT)) $(ARGS)

bench-data: env-bench ## Fetch evaluation data (TASK), as far as it may be fetched
	@set -f; $(PY) -m eval.fetch$(call option,--task,$(TASK)) $(ARGS)

bench-eval: env-bench ## Measure the evaluation: speed and memory beside clip-benchmark
	@$(PY) -m benchmarks.evaluation $(ARGS)

clean: ## Remove .venv and caches; results in out/ and the OCR weights stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# install(stamp, extras, words, stamps to write). pip runs only where the stamp is not that of KEY; stamps go first and
# come back last, with those of other extras, so an interrupted install is done again. Of several invocations at once
# one installs, the others wait.
define install
	@missing() { [ ! -x $(PY) ] || [ "$$(cat $(VENV)/.installed-$(1) 2>/dev/null)" != "$(KEY)" ]; }; \
	if missing && { ! command -v flock >/dev/null || { exec 9<Makefile; flock 9; }; } && missing; then \
	  set -e; kept=$$(grep -lsx -- "$(KEY)" $(VENV)/.installed-* | sed 's/.*\.installed-//') || true; rm -f $(VENV)/.installed-*; \
	  if ! $(PY) -m pip --version >/dev/null 2>&1; then \
	    old=; found=; \
	    for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	      $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; old=$$python; \
	      if $$python -c 'import ensurepip, venv' 2>/dev/null; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$old" ]; then echo "error: Python 3.11 or newer was not found; install it or name it: make PYTHON=/path/to/python3" >&2; exit 1; fi; \
	    if [ -z "$$found" ]; then echo "error: $$old has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; fi; \
	    rm -rf $(VENV); $$found -m venv $(VENV); \
	  fi; \
	  echo "Installing $(3) into $(VENV) ..."; \
	  $(PIP) install --quiet --editable '.[$(2)]'; \
	  for stamp in $(4) $$kept; do echo "$(KEY)" > $(VENV)/.installed-$$stamp; done; \
	  echo "Installed."; \
	fi
endef

env-filter:
	$(call install,filter,filter,the filter environment (1.3 GB on disk; a few minutes),filter)

env-concepts:
	$(call install,concepts,filter$(comma)train$(comma)teacher,the concept environment with torch (7 GB on disk; minutes),filter concepts)
env-bench:
	$(call install,bench,bench,the evaluation environment (6 GB on disk with a torch for GPUs; minutes),bench)

env-all:
	$(call install,$(subst $(comma),-,$(EXTRAS)),$(EXTRAS),the filter and development environment (1.6 GB on disk; a few minutes),filter $(subst $(comma),-,$(EXTRAS)))

# The weights check themselves in milliseconds. OpenCV, which PaddleOCR uses, needs a system library that servers often lack.
env-ocr:
	@if [ ! -e $(VENV)/.installed-cv2 ]; then \
	  if ! message=$$($(PY) -c 'import cv2' 2>&1); then \
	    echo "error: OpenCV, which the OCR needs, does not load ($$(echo "$$message" | tail -n 1)); on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0" >&2; \
	    exit 1; \
	  fi; \
	  echo "Looking for the OCR weights (75 MB; downloaded once) ..."; \
	fi
	@message=$$($(PY) -m filters.spotting.weights) || exit 1; \
	if [ ! -e $(VENV)/.installed-cv2 ]; then echo "$$message"; touch $(VENV)/.installed-cv2; fi
