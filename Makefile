# Everyday commands. Each runs `open-diht`, which make installs into .venv, at the versions of requirements.lock.
# A variable that is not given has the default of `open-diht COMMAND --help`.
##@ Variables
DATASET ?=#  sample, laion2b, laion400m, ..., or custom [sample; custom where INPUT is given]
INPUT   ?=#  manifests to read: a file, a folder or a quoted glob
OUTPUT  ?=#  folder or URL of the results; the same one again resumes [of make filter: out/DATASET]
PRESET  ?=#  thresholds: paper, balanced, strict, ..., or a YAML file [paper]
STAGES  ?=#  stages to run: captions,download,spotting,score,dedup,export [all that apply]
RUNNER  ?=#  direct (this machine), dask, flink or dataflow, see deploy/README.md [direct]
WORKERS ?=#  units at a time: processes, or a cluster's slots [all]
SHARD   ?=#  i/n: part i, from 0, of n commands that share an OUTPUT; the last one completes it
UNITS   ?=#  of make pilot: units to draw [20]; a fraction of them with ARGS="--share 0.01"
DATA    ?=#  of make concepts, train: an output of make filter [out/sample]; of make study: its sets
TEACHER ?=#  efficientnet-lite0, swag-vit-h14, timm:NAME, torchvision:NAME or open_clip:NAME
WEIGHTS ?=#  file of the teacher's weights, if not the default teacher; of make bench-data: NAME:TAG
CONFIG  ?=#  tiny, vit-b-32, vit-b-16[-reinforced], vit-l-14[-336], or a YAML file [tiny]
WORKDIR ?=#  folder or URL of checkpoints, logs and model; the same one again resumes [out/train]
SAMPLES ?=#  of make select: samples that the training will see
MODEL   ?=#  an exported folder, an architecture of open_clip, or reference [reference]
TASKS   ?=#  of make bench: demo, diht29, a YAML file, or names of tasks [demo]
TASK    ?=#  of make bench-data: what to fetch: demo, diht29, names of tasks, or reference
A       ?=#  of make compare: results of one model, a folder of make bench
B       ?=#  of make compare: results of the other; the comparison is written there
STUDY   ?=#  full (three to four hours of one process), quick, or tiny (a minute) [full]
TRACK   ?=#  of make study: cpu (small towers) or gpu (ViT-S at 112 pixels) [cpu]
ONLY    ?=#  of make figures: names of parts, with commas [all of a kind]
KIND    ?=#  of make figures: time or quality [time]
QUICK   ?=#  of make figures: 1 for a tiny size, which keeps nothing
ARGS    ?=#  anything else: --options, key=value of make train, pytest's arguments of make test
PYTHON  ?=#  the Python, 3.11 to 3.13, that .venv is made with [found on PATH]
EXTRAS  ?= train,eval,view,download,score,dask,integrations,dev#  what make setup installs [all but cloud]
.NOTPARALLEL:
comma := ,
VARIABLES := $(shell sed -n 's/^\([A-Z]*\) *?=.*/\1/p' Makefile)
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
meant = $(foreach word,$(shell python3 -c 'import difflib, sys; n = {w.lower(): w for w in sys.argv[2:]}; print(*(n[w] for w in difflib.get_close_matches(sys.argv[1].lower(), n, 1)))' '$(1)' $(2) 2>/dev/null), (did you mean $(word)?))
UNKNOWN := $(firstword $(filter-out $(VARIABLES),$(TYPED)))
ifneq ($(UNKNOWN),)
  $(error unknown variable $(UNKNOWN)$(call meant,$(UNKNOWN),$(VARIABLES)); there are $(VARIABLES); see `make help`)
endif
# OUTPUT=$$UNSET of a script must not run into the default.
$(foreach name,$(filter $(VARIABLES),$(TYPED)),$(if $(value $(name)),,$(error $(name) is empty; give it a value or leave it out)))
# Values arrive as they were typed: a $$ in a file's name is no variable of make.
$(foreach name,$(VARIABLES),$(if $(filter-out file,$(origin $(name))),$(eval override $(name) := $$(value $(name)))))

PY := .venv/bin/python
INSTALL := @deploy/install.sh base
export PYTHON
quote = '$(subst ','\'',$(1))'
option = $(if $($(word 2,$(1))), --$(word 1,$(1))=$(call quote,$($(word 2,$(1)))))
# $(call run,COMMAND,EXTRA ...,option=VARIABLE ...): install what it needs, then run it, with messages in make's spelling.
run = $(call start,.venv/bin/open-diht $(1),$(2),$(3))
start = $(INSTALL)$(subst $() ,,$(addprefix $(comma),$(2) $(CLOUD) $(filter dask,$(RUNNER)))) && export OPEN_DIHT_MAKE='$(VARIABLES)' && set -f && $(1)$(foreach pair,$(3),$(call option,$(subst =, ,$(pair)))) $(ARGS)
CLOUD = $(if $(filter dataflow,$(RUNNER))$(strip $(foreach store,s3 gs gcs hf,$(findstring $(store)://,$(INPUT) $(OUTPUT) $(DATA) $(WORKDIR) $(ARGS)))),cloud)
# Extra `download`, unless the data set is the sample or STAGES leaves out the stage.
DOWNLOAD = $(if $(filter-out sample,$(DATASET))$(INPUT),$(if $(STAGES),$(findstring download,$(STAGES)),download))
SCORE = $(if $(findstring dedup,$(PRESET))$(findstring laion-paper,$(PRESET))$(findstring --score-model,$(ARGS)),score)
WHERE := runner=RUNNER workers=WORKERS shard=SHARD
WHAT := dataset=DATASET input=INPUT output=OUTPUT preset=PRESET stages=STAGES $(WHERE)
BEAM = $(shell sed -n 's/.*"apache-beam==\([0-9.]*\)".*/\1/p' setup.py)
CODE := open_diht study benchmarks deploy examples tests setup.py docs/generate.py docs/hooks.py docs/prose.py
MARKS_test-slow := slow and not soak and not flink and not cluster
MARKS_test-all := not flink and not cluster

##@ Everyday
help: ## List the commands and variables
	@awk '/^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[A-Z]+ *\?=/ { n = $$1; sub(/\?=.*/, "", n); v = $$0; sub(/[^#]*# */, "", v); printf "  %-9s %s\n", n, v } \
	  /^[a-z0-9 -]+:.*## / { n = $$0; sub(/:.*/, "", n); d = $$0; sub(/.*## /, "", d); printf "  %-10s  %s\n", n, d }' Makefile
filter: ## Filter a data set (DATASET INPUT OUTPUT PRESET STAGES RUNNER WORKERS SHARD)
	$(call run,filter,$(DOWNLOAD) $(SCORE),$(WHAT))
view: ## Look at an output, finished or not, on a local web page (OUTPUT PRESET)
	$(call run,view,view,output=OUTPUT preset=PRESET)
rows: ## Print the rows of an output that fit, in an order (OUTPUT)
	$(call run,rows$(if $(OUTPUT), $(call quote,$(OUTPUT))))
verify: ## Check an output against its records, its preset and its input (OUTPUT INPUT)
	$(call run,verify$(if $(OUTPUT), $(call quote,$(OUTPUT))),,input=INPUT)
pilot: ## Filter a random sample and forecast the whole (as filter; UNITS)
	$(call run,pilot,$(DOWNLOAD) $(SCORE),$(WHAT) units=UNITS)
select: ## Choose rows and repeats for a training of n samples (OUTPUT SAMPLES)
	$(call run,select,,output=OUTPUT samples=SAMPLES)
concepts: ## Make concept targets of filtered data (DATA TEACHER WEIGHTS OUTPUT RUNNER)
	$(call run,concepts,train,data=DATA output=OUTPUT teacher=TEACHER weights=WEIGHTS $(WHERE))
train: ## Train a model on filtered data (DATA CONFIG WORKDIR)
	$(call run,train,train,data=DATA config=CONFIG workdir=WORKDIR)
bench: ## Evaluate a model; nothing is downloaded (MODEL TASKS OUTPUT)
	$(call run,bench,eval,model=MODEL tasks=TASKS output=OUTPUT)
bench-data: ## Fetch evaluation data, if a program may download it (TASK WEIGHTS)
	$(call run,bench-data,eval,task=TASK weights=WEIGHTS)
compare: ## Test two models against each other on the same items (A B)
	$(if $(A),$(if $(B),,$(error B is missing; give two folders of make bench: make compare A=one B=other)),$(error A is missing; give two folders of make bench: make compare A=one B=other))
	$(call run,compare $(call quote,$(A)) $(call quote,$(B)),eval)
study: ## Test the paper's claims in miniature (STUDY TRACK DATA OUTPUT)
	$(call start,$(PY) -m study,download train eval score,study=STUDY track=TRACK data=DATA output=OUTPUT)
study-data: ## Fetch the data of the study, if a program may download it (DATA)
	$(call start,$(PY) -m study.fetch,download train eval score,data=DATA)
##@ Clusters
dask-up dask-down flink-up flink-down: ## Start, or stop, a cluster here for RUNNER=dask or flink
	@$(if $(filter %-up,$@),deploy/install.sh base$(if $(filter dask-up,$@),$(comma)dask) &&) \
	  $(if $(filter %-up,$@),$(PY),python3) -m deploy.$(subst -,.cluster ,$@)
##@ Development
setup: ## Install everything that development needs (EXTRAS)
	$(INSTALL),$(EXTRAS)
	@.venv/bin/open-diht weights
test test-slow test-all: setup ## Run the quick tests, the slow ones, or all (CI runs the first two)
	@$(if $(filter test,$@),$(if $(ARGS),,echo "The quick tests take about ten minutes on two cores ..." && ))$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(if $(MARKS_$@),-m "$(MARKS_$@)") $(ARGS)
test-runners: setup ## Run the tests on Flink, Prism, a Dask cluster and Beam's Google Cloud part
	@$(PY) -m pytest -rs -m "flink or cluster" tests/pipelines/runners tests/deploy $(ARGS)
prism: ## Build Prism into .prism, the runner of make test-runners (needs Go)
	@[ "$$(cat .prism/version 2>/dev/null)" = "$(BEAM)" ] || { echo "Building Prism $(BEAM) ..."; GOBIN="$$(pwd)/.prism" \
	  go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(BEAM) && echo "$(BEAM)" > .prism/version; } || \
	  { echo "error: Prism could not be built from Beam's Go module; it needs Go 1.21 or newer and a network" >&2; exit 1; }
lint: setup ## Run ruff, mypy and a check of the prose
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m docs.prose && $(PY) -m mypy $(CODE)
docs: setup ## Build the documentation into out/docs; a warning is an error
	@$(PY) -m docs.generate && NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict && echo "out/docs/index.html"
lock: setup ## Resolve requirements.lock again: versions and hashes for Python 3.11 to 3.13
	@.venv/bin/uv pip compile setup.py --universal --python-version 3.11 --all-extras --upgrade --generate-hashes \
	  --no-header --no-annotate --no-emit-index-url --quiet --output-file requirements.lock
figures: setup ## Measure our parts next to their peers, and publish the figures (ONLY KIND QUICK)
	@$(PY) -m benchmarks.figures$(call option,only ONLY)$(call option,kind KIND)$(if $(QUICK), --quick) $(ARGS)
s3-server: ## Build versitygw into .tools, an S3 server that tests talk to (needs Go)
	@[ -x .tools/versitygw ] || GOBIN="$$(pwd)/.tools" go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
clean: ## Remove .venv, builds and caches; results in out/ and the OCR weights stay
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
TARGETS := $(shell sed -n 's/^\([a-z0-9 -]*\):.* \#\# .*/\1/p' Makefile)
.PHONY: $(TARGETS) $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
$(filter-out $(TARGETS),$(patsubst %/__init__.py,%,$(wildcard */__init__.py))) .DEFAULT:
	$(error unknown target $@$(call meant,$@,$(TARGETS)); see `make help`)
