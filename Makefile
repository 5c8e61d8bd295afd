# The commands people type. `make help` lists them; everything lives in .venv, and nothing is installed twice.

##@ Variables of `make filter`
DATASET ?= $(if $(INPUT),custom,sample)#  sample, laion2b, laion400m, ... or custom, which INPUT alone means
INPUT   ?=#                 manifests to read: a file or a quoted glob (the sample brings its own)
OUTPUT  ?= out/$(DATASET)#  folder for the results; run again with the same one to resume. Or hf://datasets/owner/name, see docs/howto/hub.md
PRESET  ?= paper#           paper, balanced, strict, paper-dedup, laion-paper, safe or a YAML file: what is counted, and the thresholds
STAGES  ?=#                 comma-separated from captions,download,spotting,score,dedup,export (all that apply)
RUNNER  ?= direct#          direct (this machine), prism, dask, flink or dataflow; see deploy/README.md
WORKERS ?=#                 units at a time: processes, or a cluster's slots (all)
SHARD   ?=#                 i/n: part i (from 0) of n invocations that share one OUTPUT; one without it finishes
ARGS    ?=#                 anything else for `python -m open_diht.pipelines`; key=value for `make train`; for pytest with `make test`

##@ Variables of `make view`: OUTPUT, PRESET (that of the run) and ARGS="--port 8000"

##@ Variables of `make pilot`, besides those; with TEACHER=NAME its GPU-hours or core-hours too
UNITS   ?=#                 units to draw (20)
SHARE   ?=#                 share of the units to draw, instead

##@ Variables of `make concepts`, with RUNNER, WORKERS and SHARD
DATA    ?= out/sample#      output folder of `make filter`, with images
TEACHER ?= efficientnet-lite0#  or swag-vit-h14, timm:NAME, torchvision:NAME, open_clip:NAME (then with WEIGHTS)
WEIGHTS ?=#                 file of the teacher's weights, which you fetch (swag-vit-h14: CC-BY-NC-4.0); the default one's are installed
HEADARGS ?=#                anything else for `python -m open_diht.trainer.concepts`; ARGS for `python -m open_diht.pipelines.concepts`

##@ Variables of `make train`
CONFIG  ?= tiny#            tiny, vit-b-32, vit-b-16, vit-l-14, vit-l-14-336, or a YAML file; DATA as above
WORKDIR ?= out/train#       folder, or s3://..., for checkpoints, logs and the model; run again with the same one to go on

##@ Variables of `make bench`, with OUTPUT and ARGS
MODEL   ?= reference#       a folder that was exported, an architecture of open_clip, or reference: real weights offline
TASKS   ?= demo#            demo, diht29, a YAML file, or names of tasks, comma-separated
TASK    ?=#                 for `make bench-data`: what to fetch (demo, diht29, names, reference)
A       ?=#                 for `make compare`: results of one model, a folder of `make bench`
B       ?=#                 and of another; the comparison is written into the second

##@ Variables of `make study`, with OUTPUT (out/study), DATA (out/study-data) and ARGS
TRACK   ?= cpu#             cpu (small towers), or gpu (ViT-S at 112 pixels on CUDA; no GPU has run it yet)
STUDY   ?= full#            full (an hour and a half on two cores), quick (20 minutes) or tiny (a minute, on drawn images: does it run?)

##@ Other variables
JOBS    ?= 2#               test files run at a time by `make test`, `test-all` and `coverage` (0: one, in pytest's own process)
PYTHON  ?=#                 the Python (3.11 or newer) to build .venv with (found on PATH)
EXTRAS  ?= view,download,score,train,eval,dask,dev#  what `make setup` and `make test` install; see setup.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup filter view pilot concepts train test test-all test-runners coverage lint docs bench-filter bench-scale bench-train bench bench-data bench-eval compare study study-data dask-up dask-down flink-up flink-down prism s3-server clean env-filter env-view env-train env-bench env-study env-dask env-all env-ocr

comma := ,
empty :=
space := $(empty) $(empty)
# What `filter` needs comes without an extra; its stamp has that name.
brackets = $(if $(filter-out filter,$(subst $(comma), ,$(1))),[$(subst $(space),$(comma),$(strip $(filter-out filter,$(subst $(comma), ,$(1)))))])
# The variables above. One that nobody reads is a slip of the keyboard, which make itself passes over in silence.
VARIABLES := $(shell sed -n 's/^\([A-Z]*\) *?=.*/\1/p' Makefile)
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(firstword $(filter-out $(VARIABLES),$(TYPED)))
ifneq ($(UNKNOWN),)
  NEAREST := $(shell python3 -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1].upper(), sys.argv[2:], 1))' '$(UNKNOWN)' $(VARIABLES) 2>/dev/null)
  $(error unknown variable $(UNKNOWN)$(if $(NEAREST), (did you mean $(NEAREST)?)); there are $(VARIABLES); see `make help`)
endif
# A place that is typed and empty is a shell variable that is not set; the default is not what was meant.
EMPTY := $(firstword $(foreach name,OUTPUT INPUT DATA WORKDIR,$(if $(filter $(name),$(TYPED)),$(if $(value $(name)),,$(name)))))
$(if $(EMPTY),$(error $(EMPTY) is empty, perhaps a variable that is not set; name a place, or leave it out))
# Values are taken as they were typed: a $$ in a file's name is no variable of make.
$(foreach name,$(VARIABLES),$(if $(filter-out file,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
# An install is done when its stamp holds this key: the content of setup.py and the place of the checkout.
KEY := $(shell { cat setup.py; pwd; } | cksum | tr -d ' ')
CODE = $(wildcard common filters pipelines trainer eval study benchmarks deploy examples tests setup.py open_diht docs/hooks.py)
BEAM = $(shell sed -n 's/.*"apache-beam==\([0-9.]*\)".*/\1/p' setup.py)
BENCHES = captions verifier spotting text_shapes overlap_false_positives dedup download
SCALE_BENCHES = scale many_units on_paper
TRAIN_BENCHES = losses train_step checkpoints loader
# OCR is set up unless the stages asked for do without it.
NEEDS_OCR = $(if $(STAGES),$(findstring spotting,$(STAGES)),yes)
# Images are downloaded unless they come with the sample or the stage is left out; a preset may compare embeddings.
NEEDS_DOWNLOAD = $(if $(filter sample,$(DATASET)),,$(if $(STAGES),$(findstring download,$(STAGES)),yes))
DASK_EXTRA = $(if $(filter dask,$(RUNNER)),$(comma)dask)
FILTER_EXTRAS = filter$(if $(NEEDS_DOWNLOAD),$(comma)download)$(if $(findstring dedup,$(PRESET))$(findstring laion-paper,$(PRESET))$(findstring --score-model,$(ARGS)),$(comma)score)$(if $(filter s3://% gs://% hf://%,$(INPUT) $(OUTPUT) $(ARGS))$(filter dataflow,$(RUNNER)),$(comma)cloud)$(DASK_EXTRA)
VIEW_EXTRAS = filter,view$(if $(filter s3://% gs://%,$(OUTPUT)),$(comma)cloud)
TRAIN_EXTRAS = filter,train$(if $(filter s3://% gs://%,$(DATA) $(INPUT) $(OUTPUT) $(WORKDIR))$(filter dataflow,$(RUNNER)),$(comma)cloud)$(DASK_EXTRA)
# TEACHER has a default that is meant for `make concepts`.
ASKED_TEACHER = $(if $(filter file,$(origin TEACHER)),,yes)
# OUTPUT, where it was given; its default is that of `make filter`.
CONCEPTS = $(if $(filter file,$(origin OUTPUT)),$(DATA)/concepts,$(OUTPUT))
# OUTPUT has a default that is meant for `make filter`.
BENCH_OUTPUT = $(if $(filter file,$(origin OUTPUT)),,$(OUTPUT))
# So has DATA, for `make concepts` and `make train`.
STUDY_DATA = $(if $(filter file,$(origin DATA)),,$(DATA))
# A value as one word of the shell, whatever blanks, globs or quotes it holds; an option only where it has a value.
quote = '$(subst ','\'',$(1))'
option = $(if $(2), $(1)=$(call quote,$(2)))

##@ Commands
help: ## List the commands and variables
	@awk '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[A-Z]+ *\?=/ { split($$0, a, /#  */); n = a[1]; sub(/ *\?=.*/, "", n); v = a[1]; sub(/^[^=]*= */, "", v); \
	    if (v ~ /if/) gsub(/.*,|\)/, "", v); \
	    printf "  %-13s %s%s\n", n, a[2], v == "" ? "" : " [" v "]" } \
	  /^[a-z0-9-]+:.*## / { n = $$0; sub(/:.*/, "", n); d = $$0; sub(/.*## /, "", d); printf "  %-13s %s\n", n, d }' Makefile

setup: env-all env-ocr ## Install everything: filters, OCR weights, development tools

filter: env-filter $(if $(NEEDS_OCR),env-ocr) ## Filter a data set (DATASET, INPUT, OUTPUT, ...)
	@set -f; $(PY) -m open_diht.pipelines$(call option,--dataset,$(DATASET))$(call option,--input,$(INPUT))$(call option,--output,$(OUTPUT))$(call option,--preset,$(PRESET))$(call option,--stages,$(STAGES))$(call option,--runner,$(RUNNER))$(call option,--workers,$(WORKERS))$(call option,--shard,$(SHARD)) $(ARGS)

view: env-view ## Look at what was filtered, finished or not: a local web page (OUTPUT, ARGS="--port 8000")
	@set -f; $(PY) -m open_diht.pipelines.view --output $(call quote,$(OUTPUT))$(if $(filter-out file,$(origin PRESET)),$(call option,--preset,$(PRESET))) $(ARGS)

pilot: env-filter $(if $(ASKED_TEACHER),env-train) $(if $(NEEDS_OCR),env-ocr) ## Filter a random sample, forecast the whole (UNITS, SHARE, ARGS="--price-core-hour 0.04")
	@set -f; $(PY) -m open_diht.pipelines.pilot$(call option,--dataset,$(DATASET))$(call option,--input,$(INPUT))$(if $(filter-out out/$(DATASET),$(OUTPUT)),$(call option,--output,$(OUTPUT)))$(call option,--preset,$(PRESET))$(call option,--stages,$(STAGES))$(call option,--runner,$(RUNNER))$(call option,--workers,$(WORKERS))$(call option,--shard,$(SHARD))$(call option,--units,$(UNITS))$(call option,--share,$(SHARE))$(if $(ASKED_TEACHER),$(call option,--teacher,$(TEACHER))$(call option,--weights,$(WEIGHTS))) $(ARGS)

concepts: env-train ## Make concept targets of filtered data (DATA, TEACHER, WEIGHTS, OUTPUT, ...)
	@set -f; $(PY) -m open_diht.pipelines.concepts --data $(call quote,$(DATA)) --output $(call quote,$(CONCEPTS)) --teacher $(call quote,$(TEACHER))$(call option,--weights,$(WEIGHTS))$(call option,--runner,$(RUNNER))$(call option,--workers,$(WORKERS))$(call option,--shard,$(SHARD)) $(ARGS)
	@set -f; $(PY) -m open_diht.trainer.concepts --concepts $(call quote,$(CONCEPTS))$(call option,--shard,$(SHARD)) $(HEADARGS)

train: env-train ## Train a model on filtered data (DATA, CONFIG, WORKDIR, ARGS)
	@set -f; $(PY) -m open_diht.trainer --data $(call quote,$(DATA)) --config $(call quote,$(CONFIG)) --workdir $(call quote,$(WORKDIR)) $(ARGS)

test: env-all env-ocr ## Run the tests, without soak and flink
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: env-all env-ocr ## Run the tests with kill and soak (many minutes)
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not flink and not cluster" $(ARGS)

test-runners: env-all env-ocr ## Run the tests that need Flink, Prism, a Dask cluster, or Beam's Google Cloud part (minutes)
	@$(PY) -m pytest -rs -m "flink or cluster" tests/pipelines/runners tests/deploy $(ARGS)

coverage: env-all env-ocr ## Run the tests, show the lines they do not reach (ARGS="tests/filters" for a part)
	@$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered $(ARGS)

lint: env-all ## Run ruff and mypy
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check --quiet $(CODE) || { echo "error: some files are not formatted; run $(PY) -m ruff format ." >&2; exit 1; }
	@$(PY) -m mypy open_diht $(filter-out common filters pipelines trainer eval study open_diht,$(CODE))

docs: env-all ## Build the documentation into out/docs; broken links and pages without a place are errors
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict && echo "out/docs/index.html"

bench-filter: env-all env-ocr ## Measure the filters: speed, hits, false positives
	@status=0; for bench in $(BENCHES); do echo "== $$bench"; $(PY) -m benchmarks.$$bench || status=1; done; exit $$status

bench-scale: env-all ## Measure workers, shards, Prism and Dask against plain processes; the driver at 100 thousand units
	@status=0; for bench in $(SCALE_BENCHES); do echo "== $$bench"; $(PY) -m benchmarks.$$bench || status=1; done; exit $$status

dask-up: env-dask $(if $(NEEDS_OCR),env-ocr) ## Start a Dask scheduler with two workers on this machine, for RUNNER=dask
	@$(PY) -m deploy.dask.cluster up

dask-down: ## Stop them
	@$(if $(wildcard $(PY)),$(PY),python3) -m deploy.dask.cluster down

flink-up: env-filter ## Start a standalone Flink with two slots on this machine, for RUNNER=flink (needs Java 17)
	@$(PY) -m deploy.flink.cluster up

flink-down: ## Stop it
	@$(if $(wildcard $(PY)),$(PY),python3) -m deploy.flink.cluster down

prism: ## Build Prism into .prism, for RUNNER=prism (needs Go)
	@if [ -x .prism/prism ] && [ "$$(cat .prism/version 2>/dev/null)" = "$(BEAM)" ]; then echo "Prism $(BEAM) is in .prism"; exit 0; fi; \
	if ! command -v go >/dev/null; then echo "error: Go 1.21 or newer was not found; Prism is built from Beam's Go module" >&2; exit 1; fi; \
	echo "Building Prism $(BEAM) ..."; \
	GOBIN="$$(pwd)/.prism" go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM) && echo "$(BEAM)" > .prism/version

s3-server: ## Build versitygw into .tools, an S3 server that tests talk to (needs Go)
	@[ -x .tools/versitygw ] || GOBIN="$$(pwd)/.tools" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0

bench-train: env-all ## Measure the trainer against open_clip: step, losses, checkpoints
	@status=0; for bench in $(TRAIN_BENCHES); do echo "== $$bench"; $(PY) -m benchmarks.$$bench || status=1; done; exit $$status

bench: env-bench ## Evaluate a model (MODEL, TASKS, OUTPUT); nothing is downloaded
	@set -f; $(PY) -m open_diht.eval$(call option,--model,$(MODEL))$(call option,--tasks,$(TASKS))$(call option,--output,$(BENCH_OUTPUT)) $(ARGS)

bench-data: env-bench ## Fetch evaluation data (TASK), as far as it may be fetched
	@set -f; $(PY) -m open_diht.eval.fetch$(call option,--task,$(TASK)) $(ARGS)

compare: env-bench ## Test two models against each other on the same items (A, B)
	@set -f; $(PY) -m open_diht.eval.compare $(call quote,$(A)) $(call quote,$(B)) $(ARGS)

study: env-study env-ocr ## The paper's claims in miniature: does it help? (STUDY, TRACK, DATA, OUTPUT, ARGS="--claims cat")
	@set -f; $(PY) -m open_diht.study$(call option,--study,$(STUDY))$(call option,--track,$(TRACK))$(call option,--data,$(STUDY_DATA))$(call option,--output,$(BENCH_OUTPUT)) $(ARGS)

study-data: env-study env-ocr ## Fetch the data of the study, as far as a program may (DATA, ARGS="web --manifest FILE")
	@set -f; $(PY) -m open_diht.study.fetch$(call option,--data,$(STUDY_DATA)) $(ARGS)

bench-eval: env-bench ## Measure the evaluation: speed and memory beside clip-benchmark, probes beside scikit-learn, how often intervals hold
	@$(PY) -m benchmarks.evaluation $(ARGS)
	@$(PY) -m benchmarks.probe
	@$(PY) -m benchmarks.coverage

clean: ## Remove .venv and caches; results in out/ and the OCR weights stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	@find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# install(extras, words): pip runs only where an extra has no stamp, or one of another KEY. Stamps go first and come back
# last, so an interrupted install is done again. Of several invocations at once one installs, the others wait.
define install
	@missing() { [ -x $(PY) ] || return 0; for extra in $(subst $(comma), ,$(1)); do [ "$$(cat $(VENV)/.installed-$$extra 2>/dev/null)" = "$(KEY)" ] || return 0; done; return 1; }; \
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
	    rm -rf $(VENV); $$found -m venv $(VENV); kept=; \
	  fi; \
	  echo "Installing $(2) into $(VENV) ..."; \
	  $(PIP) install --quiet --editable '.$(call brackets,$(1))'; \
	  for extra in $(subst $(comma), ,$(1)) $$kept; do echo "$(KEY)" > $(VENV)/.installed-$$extra; done; \
	  echo "Installed."; \
	fi
endef

env-filter:
	$(call install,$(FILTER_EXTRAS),what the filters need (1 GB on disk; a few minutes))

env-dask:
	$(call install,filter$(comma)dask,what the filters and Dask need (1 GB on disk; a few minutes))

env-view:
	$(call install,$(VIEW_EXTRAS),what the filters and their page need (1 GB on disk; a few minutes))

env-train:
	$(call install,$(TRAIN_EXTRAS),what training needs (7 GB on disk with a torch for GPUs; minutes))

env-bench:
	$(call install,eval,what the evaluation needs (6 GB on disk with a torch for GPUs; minutes))

env-study:
	$(call install,filter$(comma)download$(comma)train$(comma)eval,what the study needs (8 GB on disk with a torch for GPUs; minutes))

env-all:
	$(call install,$(EXTRAS),everything and the development tools (8 GB on disk with a torch for GPUs; minutes))

# The weights check themselves in milliseconds. Where PaddleOCR is installed, its OpenCV may lie over that of the extra ocr, and
# needs a system library that servers often lack.
env-ocr:
	@if [ ! -e $(VENV)/.installed-cv2 ]; then \
	  if ! message=$$($(PY) -c 'import cv2' 2>&1); then \
	    echo "error: OpenCV, which the OCR needs, does not load ($$(echo "$$message" | tail -n 1)); on Debian and Ubuntu: apt-get install libgl1 libglib2.0-0" >&2; \
	    exit 1; \
	  fi; \
	  echo "Looking for the OCR weights (75 MB; downloaded once) ..."; \
	fi
	@message=$$($(PY) -m open_diht.filters.spotting.weights) || exit 1; \
	if [ ! -e $(VENV)/.installed-cv2 ]; then echo "$$message"; touch $(VENV)/.installed-cv2; fi
