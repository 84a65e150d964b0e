# Every target makes .venv by itself and installs only what it needs.
#
#   make segment [VOLUME=... MODEL=...]   segment a real T1 head, which is part of the project, or a volume of yours
#   make test | lint | bench | bench-contrasts | screenshots
#   make test-slips   a misspelt name in any of the module's files is noticed: all of them, where make test tries ten
#   make fuzz [COUNT=50000]   damaged headers, others each time
#   make bench-doubt | bench-refine [MEASURE=1]   figures that were measured; MEASURE=1 measures them anew
#   make experiments [MEASURE=1 DATA=...]   tables and plots of the experiments; MEASURE=1 does the runs that are missing

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= output
VOLUME ?= SESegmentation/Resources/SampleData/SESegmentationHead.nii.gz
MODEL ?=
MEASURE ?=
COUNT ?= 50000
DATA ?= ../shared/data
PLANS ?= hippocampus hippocampus-long hippocampus-paper brain abdomen-mr

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: help segment test test-slips fuzz bench bench-contrasts bench-doubt bench-refine experiments lint screenshots clean

help:
	@sed -n 's/^#  *make/make/p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.testing: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) --editable '.[test,export]'
	$(PIP) --no-deps segmentation-models-pytorch  # one file of it is compared with; it needs torch alone
	@touch $@ $(VENV)/.runtime

segment: $(VENV)/.runtime
	$(BIN)/sesegment run '$(VOLUME)' --model '$(or $(MODEL),brain-mr)' \
	    --output '$(OUTPUT)/segmentation.seg.nrrd' --report '$(OUTPUT)/report.json' --picture '$(OUTPUT)/picture.png'

lint: $(VENV)/.testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# tests that judge how long the window waits have the computer to themselves; of the others a file goes to whatever core
# is free, and computes on that one alone
test: lint
	$(BIN)/python -m pytest -m alone
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile -m 'not alone' \
	    --cov --cov-report=term

test-slips: $(VENV)/.testing
	SESEGMENTATION_ALL_SLIPS=1 $(BIN)/python -m pytest Testing/panel/test_mutations.py

# damaged headers are part of the tests, always the same; here others, and more
fuzz: $(VENV)/.testing
	FUZZ_MUTATIONS='$(COUNT)' FUZZ_SEED="$$(date +%s)" OMP_NUM_THREADS=1 \
	    $(BIN)/python -m pytest --numprocesses 4 --timeout 0 Testing/faults/test_fuzzing.py

bench: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/run.py

bench-contrasts: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/contrasts.py $(if $(MODEL),--model '$(MODEL)')

# an interrupted measurement goes on where it stopped
bench-doubt bench-refine: bench-%: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/$*.py $(if $(MODEL),--model '$(MODEL)') $(if $(MEASURE),--measure)

# runs that are in Resources/experiments/results.json are not done again; an interrupted experiment goes on
experiments: $(VENV)/.testing
	OMP_NUM_THREADS=1 $(BIN)/sesegment experiment $(PLANS) --output Resources/experiments \
	    $(if $(MEASURE),--data '$(DATA)',--report)

screenshots: $(VENV)/.testing
	$(BIN)/python Testing/harness/screenshots.py

clean:
	rm -rf $(VENV) $(OUTPUT)
