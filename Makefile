# make demo     set up, then run the main job on a model built on the spot
# make test     set up, then pass the tests
# make check    format, lint, types, tests
# make install  only set up: .venv/ with the tested versions

PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
MODEL := runs/tiny-model

.PHONY: install demo test check logos

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/python -m demo.tiny_model $(MODEL)
	OMP_NUM_THREADS=1 $(BIN)/python -m detsd run finetune_const.yaml --out runs/demo \
		--set model.pretrained_model_name_or_path=$(MODEL)

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest

logos: install
	$(BIN)/python -m demo.draw_logos
