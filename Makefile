# make demo     set up, then teach the small model that comes along a new word, and show it
#               of your own pictures: make demo PICTURES=folder, and if you know words for them
#               in its small world: WORDS='a green star'
# make test     set up, then pass the tests, but for those that take minutes of processes
# make check    format, lint, types, all tests
# make chaos    trouble for trials on a stand-in cluster: MINUTES=30, SEED=any
# make logos    draw the demo's pictures again; make world: a sheet of what its model knows
# make install  only set up: .venv/ with the tested versions
# make gpu      on a machine with a GPU and torch: the tests that need one, and the benchmarks, into
#               OUT=runs/gpu within MINUTES=10; beside diffusers' scripts with DIFFUSERS=checkout
# make gpu-pretrain   there train the demo's model, as long
# make wheels   for such a machine without a network: what it may lack, into wheels/, which goes
#               along; WHEELS='diffusers peft' some of it, WHEELS_FOR=3.12 for that Python

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
# Of other pictures without WORDS: those of the demo's world that its scorer finds nearest.
FOUND := $(or $(WORDS),$(if $(PICTURES),$$($(BIN)/python -m demo.describe '$(PICTURES)')))
OTHERS := $(if $(PICTURES),--set 'concepts.img_dirs="$(PICTURES)"') \
	$(if $(FOUND),--set "concepts.initializer_strs=\"$$words\"")
RUN ?= runs/demo-$(shell printf '%s' '$(PICTURES) $(WORDS)' | cksum | cut -d' ' -f1)

GPU_PYTHON ?= python3
OUT ?= runs/gpu
ON_GPU = $(GPU_PYTHON) -m benchmarks.gpu --minutes $(or $(MINUTES),10) --out '$(OUT)'

.PHONY: install demo test check chaos logos world gpu gpu-pretrain wheels

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# One thread a process: small pieces of work gain nothing from more.
demo: install
	words="$(FOUND)" && \
	OMP_NUM_THREADS=1 $(BIN)/python -m detsd run demo/finetune.yaml --processes 2 --out '$(RUN)' $(OTHERS)
	$(BIN)/python -m demo.compare '$(RUN)'

test: install
	$(PYTEST) -m 'not slow and not gpu and not hub'

check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(PYTEST)

chaos: install
	$(BIN)/python -m tests.cluster.chaos --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

gpu:
	@$(ON_GPU) $(if $(DIFFUSERS),--peer '$(DIFFUSERS)')

gpu-pretrain:
	@$(ON_GPU) --pretrain

wheels:
	$(PYTHON) -m benchmarks.lacking --fetch $(WHEELS) $(if $(WHEELS_FOR),--python $(WHEELS_FOR))

logos: install
	$(BIN)/python -m demo.draw_logos

world: install
	$(BIN)/python -m demo.world docs/world.jpg
