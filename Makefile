# One front door: `make help`. Every target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/contracts libs/options libs/runtime libs/kubekit libs/ottoctl services/scaler services/pipeline-executor services/log-relay services/standalone
NAMES := otto-executor otto-kubekit otto-options otto-relay otto-runtime otto-scaler otto-standalone ottoctl ottoscaler-contracts
# What the wire contract may not break with respect to: the last release, before the first one the first commit.
BASE ?= $(shell git describe --tags --abbrev=0 2>/dev/null || git rev-list --max-parents=0 HEAD 2>/dev/null | tail -n 1)
WORKERS ?= 3
RUNS ?= 5
SIZE ?= 1
JSON ?= .bench/latest.json

export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONPATH VIRTUAL_ENV

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z][a-z-]*:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use it
.PHONY: run serve
run: setup ## Start everything and run a pipeline of this very repository at HEAD, live; ends with the pipeline's exit code
	@tools/with-standalone tools/run-self

serve: setup ## Start everything on :9090 and leave it running; Ctrl-C stops it
	@exec ottoscaler-standalone

##@ On Kubernetes
.PHONY: images install demo-cluster
REGISTRY ?= localhost/ottoscaler
IMAGES := .cache/images
BUILD := PYTHONPATH=tools python tools/images.py $(IMAGES) --registry $(REGISTRY)
images: setup ## Build the images with docker, podman or buildah, and say how large they are (ENGINE=, BASE=, REGISTRY=, PUSH=1, WORKSHOP=1)
	@$(BUILD) $(if $(PUSH),--push) $(if $(WORKSHOP),--workshop)

install: build ## Build, load and install on the cluster of cluster-up, or upgrade there (ARGS="--set scaler.replicas=2")
	@tools/install $(ARGS)

demo-cluster: setup ## Run a pipeline of this repository at HEAD as pods of that installation, live; ends with the pipeline's exit code
	@$(CLUSTER) run tools/demo-cluster

##@ Change it on Kubernetes
.PHONY: tilt tilt-down build deploy logs forward setup-user remove-user
tilt: setup clients $(if $(shell command -v tilt),,$(BIN)/tilt) ## Tilt on the cluster of cluster-up: what is saved runs in its pod seconds later (NAMESPACE=ottoscaler-dev, PORT=9090)
	@$(BUILD) --workshop
	@tools/load-images
	@$(CLUSTER) run tools/tilt up

tilt-down: setup clients $(if $(shell command -v tilt),,$(BIN)/tilt) ## Remove what Tilt has installed (NAMESPACE=ottoscaler-dev)
	@$(CLUSTER) run tools/tilt down

$(BIN)/tilt: tools/testcluster/go/tilt/go.mod | setup
	@ln -sf "$$($(CLUSTER) tilt)" $@

build: setup ## Build the images and load them into the cluster of cluster-up
	@$(BUILD) --workshop
	@tools/load-images

deploy: setup ## Install what build has built, or upgrade to it (NAMESPACE=ottoscaler, ARGS="--set scaler.replicas=2")
	@tools/install $(ARGS)

logs: setup ## Follow what the services say there
	@$(CLUSTER) run kubectl --namespace "$${NAMESPACE:-ottoscaler}" logs --follow --prefix --max-log-requests 20 --tail 20 \
	  --selector 'app.kubernetes.io/part-of=ottoscaler,app.kubernetes.io/component!=worker'

forward: setup ## Have 127.0.0.1:9090 of this machine lead to the front door there (PORT=9090, NAMESPACE=ottoscaler)
	@$(CLUSTER) forward "$${PORT:-9090}" --namespace "$${NAMESPACE:-ottoscaler}" --selector app.kubernetes.io/component=front-door

setup-user: setup clients ## A namespace, a quota, a kubeconfig and values for one of those who share the cluster of cluster-up (USER_NAME=mia)
	@$(CLUSTER) run tools/user setup $(or $(USER_NAME),$(error setup-user needs USER_NAME=name))

remove-user: setup clients ## Remove them, and what was installed there (USER_NAME=mia)
	@$(CLUSTER) run tools/user remove $(or $(USER_NAME),$(error remove-user needs USER_NAME=name))

##@ Change it
.PHONY: setup clients node generate lock format lint types verify chart goldens test test-quick test-long check bench bench-compare dist hooks clean
setup: $(VENV)/.ready ## Make .venv with every pinned dependency and our packages

# uv comes first, alone and by its hash, because it installs the rest in seconds where pip takes half a minute.
# Ours are copied whatever UV_LINK_MODE says: others may lie in a cache that every later user of .venv has too, what is built here does not.
$(VENV)/.ready: requirements.lock pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(f"Python 3.11 or later is needed; {sys.executable} is {sys.version.split()[0]}. Say which with: make PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing pinned dependencies into $(VENV) …"
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-config --require-hashes --no-deps -r requirements.lock
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-config --no-deps --no-build-isolation --no-sources --link-mode copy $(PACKAGES:%=-e ./%)
	@touch $@

clients: $(BIN)/helm ## Put kubectl and helm, pinned, into .venv/bin

$(BIN)/helm: tools/testcluster/clients.txt tools/testcluster/clients.py | setup
	@echo "Installing kubectl and helm into $(BIN) …"
	@PYTHONPATH=tools python -m testcluster clients $(BIN)

node: $(if $(shell command -v npm),tests/node/node_modules/.ready) ## Fetch the pinned npm packages of the tests that use Node (18 or later); without npm those tests are skipped
	@command -v npm >/dev/null || echo "npm is not here, so tests that need Node are skipped (Debian, Ubuntu: apt-get install nodejs npm)" >&2

tests/node/node_modules/.ready: tests/node/package.json tests/node/package-lock.json tests/node/.npmrc
	@echo "Installing pinned npm packages into tests/node …"
	@cd tests/node && npm ci --silent --no-progress
	@touch $@

format: setup ## Format Python and proto files
	ruff format .
	ruff check --fix --quiet .
	buf format -w

lint: setup ## ruff, import-linter, buf: style, the import law, the protos' style
	ruff format --check .
	ruff check .
	lint-imports --no-logo || { lint-imports; exit 1; }
	buf lint
	buf format --diff --exit-code

types: setup ## mypy --strict over everything written by hand
	mypy

# ottoctl is installed without the chart, so it has a copy of what services need to be allowed.
RIGHTS := charts/ottoscaler/files/rights.yaml libs/ottoctl/src/ottoctl/doctor/rights.yaml
generate: setup ## Regenerate what is generated: code from protos, the README's settings tables, the schema of the chart's values, its dashboard
	python libs/contracts/tools/generate.py
	python tools/settings_table.py
	python tools/chart_values.py
	cp $(RIGHTS)

verify: setup ## The twins of generate: what is committed is what would be generated, and the wire contract breaks nothing
	python libs/contracts/tools/generate.py --check
	python tools/settings_table.py --check
	python tools/chart_values.py --check
	@cmp $(RIGHTS) || { echo "the rights that ottoctl doctor asks about are not the chart's: run \`make generate\`" >&2; exit 1; }
	buf breaking --against '.git#ref=$(BASE)'

# checkov pins a hundred packages of its own, which would decide ours: so it lives in an environment beside them.
CHECKOV := $(VENV)/checkov
$(CHECKOV)/bin/checkov: tools/policy/checkov.lock | setup
	@echo "Installing checkov into $(CHECKOV) …"
	@$(PYTHON) -m venv --clear --without-pip $(CHECKOV)
	@uv pip install --quiet --no-config --python $(CHECKOV) --require-hashes --no-deps -r tools/policy/checkov.lock
	@touch $@

chart: clients $(CHECKOV)/bin/checkov ## The chart: helm lint, goldens, strict schemas of every object, Envoy's own validation, policies
	pytest -n $(WORKERS) tests/chart --ignore tests/chart/test_front_door.py
	@helm template otto charts/ottoscaler --namespace ci --set networkPolicy.enabled=true,test.enabled=false > $(VENV)/chart.yaml
	$(CHECKOV)/bin/checkov --config-file tools/policy/checkov.yaml --file $(VENV)/chart.yaml

goldens: clients ## Write what the chart renders now as what it has to render
	pytest tests/chart/test_goldens.py --write-goldens

test: setup clients node ## All tests; no cluster, no network but loopback
	pytest -n $(WORKERS) --dist worksteal -m "not long and not cluster"

test-quick: setup ## The tests that take a moment each: what the pipeline of make run runs
	pytest -n $(WORKERS) -m "not slow and not long and not cluster"

test-long: setup node ## The long tests: seeded crashes, thousands of pipelines, floods of malformed requests
	pytest -n $(WORKERS) --dist worksteal -m "long and not cluster"

check: lint types verify chart ## What CI checks before the tests

bench: setup ## Measure a standalone service: a table, and $(JSON) (RUNS=5 times; SIZE=0.1 for a quick look; ONLY=status,chain for some; MARKDOWN=1)
	PYTHONPATH=tests python -m bench run --runs $(RUNS) --size $(SIZE) --json $(JSON) $(if $(ONLY),--only $(ONLY)) $(if $(MARKDOWN),--markdown)

# The two results stand where make expects goals: they become goals that do nothing.
ifeq (bench-compare,$(firstword $(MAKECMDGOALS)))
COMPARED := $(wordlist 2,3,$(MAKECMDGOALS))
.PHONY: $(sort $(COMPARED))
$(sort $(COMPARED)):
	@:
endif
bench-compare: setup ## What changed beyond noise: make bench-compare OLD.json NEW.json
	@PYTHONPATH=tests python -m bench compare $(COMPARED)

dist: setup ## Wheels of all distributions into dist/
	rm -rf dist
	for package in $(PACKAGES); do (cd $$package && hatchling build -t wheel -d $(CURDIR)/dist); done

lock: setup ## Pin again: requirements.lock from the pyproject.toml files (LOCK_FLAGS=--upgrade for newer versions)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --group dev \
	  $(NAMES:%=--no-emit-package %) $(LOCK_FLAGS) pyproject.toml -o requirements.lock
	echo checkov | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate \
	  $(LOCK_FLAGS) - -o tools/policy/checkov.lock

hooks: setup ## Install the pre-commit hooks
	pre-commit install

clean: ## Remove what was made here: .venv, caches, dist
	rm -rf $(VENV) dist tests/node/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ A real cluster
.PHONY: cluster-up cluster-down cluster-status cluster-shell cluster-load test-cluster bench-cluster
CLUSTER := PYTHONPATH=tools python -m testcluster
cluster-up: setup ## Have a Kubernetes cluster of this checkout's own, with Kind (NODES=2 for more than one node)
	@$(CLUSTER) up $(if $(NODES),--nodes $(NODES))

cluster-down: setup ## Remove it and all that belongs to it
	@$(CLUSTER) down

cluster-status: setup ## How to reach it, its nodes and its pods
	@$(CLUSTER) status

cluster-shell: setup ## A shell with kubectl, helm and kind that reaches it
	@$(CLUSTER) shell

cluster-load: setup ## Make an image known to its nodes: IMAGE=name (of its engine) or ARCHIVE=file (docker save)
	@$(CLUSTER) load $(if $(ARCHIVE),--archive $(ARCHIVE),--image $(or $(IMAGE),$(error cluster-load needs IMAGE=name or ARCHIVE=file)))

# A cluster of one's own choice pulls the images that the values in OTTO_TEST_IMAGES name. Most of the time tests wait for pods to start,
# so two run at a time, but for those that take away what the others need.
ON_CLUSTER = $(if $(OTTO_TEST_KUBECONFIG),,$(CLUSTER) run) pytest -v --durations 15
test-cluster: export OTTO_TEST_QUICK := $(QUICK)
test-cluster: setup clients node ## The tests that need the cluster (ONLY=words for some; QUICK=1: without some, others at fewer moments; PART=1 what takes no minutes and disturbs nothing, PART=2 the rest)
	@$(if $(OTTO_TEST_KUBECONFIG),,$(BUILD) --workshop)
	@$(if $(OTTO_TEST_KUBECONFIG),,tools/load-images)
	@$(if $(ONLY),$(ON_CLUSTER) -m cluster -k "$(ONLY)",\
	  $(if $(filter 2,$(PART)),true,$(ON_CLUSTER) -n 2 --dist worksteal -m "cluster and not long and not disruptive") && \
	  $(if $(filter 1,$(PART)),true,$(ON_CLUSTER) -n 2 --dist worksteal -m "cluster and long and not disruptive" && \
	  $(ON_CLUSTER) -m "cluster and disruptive"))

bench-cluster: JSON := .bench/cluster.json
bench-cluster: setup clients ## Measure a release on it beside bare pods: a table, and $(JSON) (RUNS=5, SIZE=0.1, ONLY=starts,chain as for bench; MARKDOWN=1)
	@$(BUILD) --workshop
	@tools/load-images
	@$(CLUSTER) run env PYTHONPATH=. python -m tests.bench.cluster run --runs $(RUNS) --size $(SIZE) --json $(JSON) \
	  $(if $(ONLY),--only $(ONLY)) $(if $(MARKDOWN),--markdown)
