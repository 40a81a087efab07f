# Two commands for everybody: make demo, make test. Both set up what they need in a folder of their own.

PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
MILVUS_VENV ?= .venv-milvus
PROFILE ?= all
BIN = $(VENV)/bin
PIP_OPTIONS = --quiet --disable-pip-version-check --constraint constraints.txt

PICTURES ?= ../shared/data
TEACHER ?= ../shared/models/mobilenet-v2-backbone
VIT ?= ../shared/models/vit-tiny-16-224
SECONDS ?= 420

.PHONY: demo mini rerankers learned-from test test-long test-milvus-server test-containers lint types check setup bench up down docs clean

# Before anything is set up: what is trained with is not part of the checkout.
LEARNS_FROM = PICTURES TEACHER
learned-from:
	@$(foreach name,$(LEARNS_FROM),test -d '$($(name))' || { \
		echo 'no folder $($(name)): give one, make $(MAKECMDGOALS) $(LEARNS_FROM:%=%=FOLDER), see pixdex/encoders/mini/MODEL_CARD.md'; exit 1; };)

# The core alone, without torch, and the packages that the photographs come with.
demo: $(DEMO_VENV)/ready
	$(DEMO_VENV)/bin/pixdex demo

# Trains the encoder that is brought along and puts it in place of the one that is there: pixdex/encoders/mini/MODEL_CARD.md.
# A GPU that torch finds is used; on a processor SECONDS=10000 is about right. Stopped, the same command goes on.
mini: learned-from setup
	$(BIN)/python -m pixdex.training.mini --pictures $(PICTURES) --teacher $(TEACHER) --seconds $(SECONDS) --into pixdex/encoders/mini

# Trains the rerankers that are brought along and puts them in place of those that are there: pixdex/rerankers/data/MODEL_CARD.md.
# SECONDS are those of training, for each; on a processor SECONDS=3600 is about right, and views take an hour of a core before.
# Stopped, the same command goes on.
RERANKERS = cross-vit-tiny-16-224 transport-vit-tiny-16-224 cross-classes-vit-tiny-16-224 cross-mini transport-mini
rerankers: SECONDS = 60
rerankers: LEARNS_FROM = PICTURES VIT
rerankers: learned-from $(RERANKERS:%=rerankers-out/%)
	for name in $(RERANKERS); do \
		rm -rf pixdex/rerankers/data/$$name && mv rerankers-out/$$name pixdex/rerankers/data/ || exit 1; done
	rm -rf rerankers-out

# One after another, as those of one encoder share the views. An old make takes the first pattern that fits.
RERANK = $(BIN)/python -m pixdex.training.rerankers --pictures $(PICTURES) --seconds $(SECONDS) --output $@ \
	--encoder $(if $(filter mini,$*),mini,hf:$(VIT)) --bank rerankers-out/views-$*
rerankers-out/cross-classes-%: | learned-from setup rerankers-out/transport-%
	$(RERANK) --kind cross --labels
rerankers-out/cross-%: | learned-from setup
	$(RERANK) --kind cross
# That of `mini` goes on from the weights of the other.
rerankers-out/transport-%: | learned-from setup rerankers-out/cross-%
	$(RERANK) --kind transport $(if $(filter mini,$*),--start rerankers-out/transport-vit-tiny-16-224)
rerankers-out/transport-mini: | rerankers-out/transport-vit-tiny-16-224

# Everything that needs no container engine.
test: lint types check

# What takes hours: thousands of random records and filters on every store, many kills.
test-long: setup
	PIXDEX_LONG=1 $(BIN)/python -m pytest --timeout=0
	$(BIN)/python -m benchmarks.durability

# A real Milvus server, in a network namespace of its own, and what only a server does.
test-milvus-server: setup $(MILVUS_VENV)/ready
	$(BIN)/python -m pytest tests/conformance/test_milvus_server.py

# The same suite on current servers, where there is a container engine; it pulls images.
test-containers: setup
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[integration]"
	$(BIN)/python -m pytest tests/integration --timeout=1800

# Servers in containers, on 127.0.0.1: make up PROFILE=qdrant, milvus or all.
up:
	docker compose --file docker/compose.yaml --profile $(PROFILE) up --detach --wait

down:
	docker compose --file docker/compose.yaml --profile $(PROFILE) down

docs: setup
	$(BIN)/python docs/generate.py

setup: $(VENV)/ready

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# A process a core, the tests on a Milvus server beside them. The spine has to be covered: see pyproject.toml.
check: setup $(MILVUS_VENV)/ready
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal --cov

bench: setup
	$(BIN)/python -m benchmarks.first
	$(BIN)/python -m benchmarks.durability
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.hygiene
	$(BIN)/python -m benchmarks.add_memory
	$(BIN)/python -m benchmarks.encode_cpu
	$(BIN)/python -m benchmarks.encode_cnn
	$(BIN)/python -m benchmarks.cold_start
	$(BIN)/python -m benchmarks.mini
	$(BIN)/python -m benchmarks.head
	$(BIN)/python -m benchmarks.finetune
	$(BIN)/python -m benchmarks.ssl
	$(BIN)/python -m benchmarks.rerank
	$(BIN)/python -m benchmarks.rerank_cost
	$(BIN)/python -m benchmarks.never_worse
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[bench]"
	$(BIN)/python -m benchmarks.encode_st
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.filtered
	$(BIN)/python -m benchmarks.indexes
	$(BIN)/python -m benchmarks.scale --plot docs/scale.svg

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "pixdex needs Python 3.11 or newer: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_OPTIONS) --editable ".[all,dev]"
	touch $@

# The server wants versions of its own. Where there is none for this platform, its tests are skipped and say so.
$(MILVUS_VENV)/ready: constraints.txt
	$(PYTHON) -m venv $(MILVUS_VENV)
	$(MILVUS_VENV)/bin/python -m pip install $(PIP_OPTIONS) milvus && touch $@ \
		|| { echo "no Milvus server for this platform: its tests will be skipped"; rm -rf $(MILVUS_VENV); }

$(DEMO_VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "pixdex needs Python 3.11 or newer: make PYTHON=python3.11"'
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install $(PIP_OPTIONS) --editable ".[demo]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(MILVUS_VENV) demo-out rerankers-out build dist *.egg-info .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
