# Every target makes .venv by itself and installs only what it needs.
#
#   make segment [VOLUME=... MODEL=...]   segment a real T1 head, which is part of the project, or a volume of yours
#   make test | coverage | lint | bench | bench-contrasts | screenshots
#   make test-slips   a misspelt name in any of the module's files is noticed: all of them, where make test tries ten
#   make container | container-test   an image for docker (DEVICE=cuda for NVIDIA's GPUs); it segments a series
#   make fuzz [COUNT=50000]   damaged headers, new ones each time
#   make bench-doubt | bench-refine [MEASURE=1]   figures that were measured; MEASURE=1 measures them anew
#   make cohort-sheet   the page for reviewing a batch, of 15 scans of the abdomen and 20 crops of the hippocampus
#   make bench-cohort   200 crops on one core and on two, and what 10,000 heads would take
#   make bench-revisions [BEFORE=...]   results, time and memory of this revision against another one
#   make bench-server   what a request costs beyond the local worker, and how eight clients share a server
#   make bench-responsiveness   how long an event waits in the window while a head is segmented
#   make bench-sheet    how smoothly that page scrolls with 1,000 scans
#   make experiments [MEASURE=1 DATA=...]   tables and plots of the experiments; MEASURE=1 does the runs that are missing

# each of the processes that tests start would compile all that it imports anew
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUTPUT ?= output
VOLUME ?= SESegmentation/Resources/SampleData/SESegmentationHead.nii.gz
MODEL ?=
MEASURE ?=
COUNT ?= 50000
DEVICE ?= cpu
DATA ?= ../shared/data
# of the test cases of hippocampus-t1, which its training did not see
CROPS := 003 015 046 051 052 074 075 099 101 124 130 141 148 152 157 161 171 180 215 221
PLANS ?= hippocampus hippocampus-long hippocampus-paper brain abdomen-mr

# compiling all of torch takes longer than all the rest; what is imported is compiled then
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
REQUIREMENTS := pyproject.toml constraints.txt

.DELETE_ON_ERROR:
.PHONY: help segment test coverage test-slips fuzz bench bench-contrasts bench-revisions bench-doubt bench-refine \
    bench-server bench-cohort bench-responsiveness bench-sheet cohort-sheet experiments \
    lint screenshots container container-test clean

help:
	@sed -n 's/^#  *make/make/p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.testing: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) --editable '.[test,export]'
	$(PIP) --no-deps segmentation-models-pytorch monailabel  # what is compared with: one file, and a client
	@touch $@ $(VENV)/.runtime

segment: $(VENV)/.runtime
	$(BIN)/sesegment run '$(VOLUME)' --model '$(or $(MODEL),brain-mr)' \
	    --output '$(OUTPUT)/segmentation.seg.nrrd' --report '$(OUTPUT)/report.json' --picture '$(OUTPUT)/picture.png'

lint: $(VENV)/.testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# each file of tests goes to the next free process, which computes on one core; there is one process more than the two
# cores that are assumed, as tests wait a fifth of their time; files that take longest come first
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) --durations 20

# not part of `test`: tracing every line takes a fifth of the tests' time
coverage: $(VENV)/.testing
	$(PYTEST) --cov --cov-report=term

test-slips: $(VENV)/.testing
	SESEGMENTATION_ALL_SLIPS=1 $(BIN)/python -m pytest Testing/panel/test_mutations.py

# damaged headers are part of the tests, always the same; here others, and more
fuzz: $(VENV)/.testing
	FUZZ_MUTATIONS='$(COUNT)' FUZZ_SEED="$$(date +%s)" OMP_NUM_THREADS=1 \
	    $(BIN)/python -m pytest --numprocesses 4 --timeout 0 Testing/faults/test_fuzzing.py

bench: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/run.py

# results, messages, time and memory of this and of another revision, which has the same dependencies
bench-revisions: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/revisions.py '$(or $(BEFORE),HEAD~1)'

bench-contrasts: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/contrasts.py $(if $(MODEL),--model '$(MODEL)')

# an interrupted measurement goes on where it stopped
bench-doubt bench-refine: bench-%: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/$*.py $(if $(MODEL),--model '$(MODEL)') $(if $(MEASURE),--measure)

bench-server bench-cohort bench-responsiveness: bench-%: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/$*.py

bench-sheet: $(VENV)/.testing
	$(BIN)/python Testing/benchmarks/sheet.py

# one page of two batches: the second run continues it
cohort-sheet: $(VENV)/.testing
	$(BIN)/sesegment run '$(DATA)/abdomen-mr/imagesTr' --model abdomen-mr --accept-licence \
	    --output '$(OUTPUT)/cohort' --sheet '$(OUTPUT)/cohort'
	$(BIN)/sesegment run $(CROPS:%='$(DATA)/hippocampus/imagesTr/hippocampus_%_0000.nii.gz') --model hippocampus-t1 \
	    --accept-licence --output '$(OUTPUT)/cohort' --sheet '$(OUTPUT)/cohort'
	$(BIN)/python Testing/benchmarks/sheet.py --page '$(OUTPUT)/cohort/sheet.html' --picture '$(OUTPUT)/cohort/sheet.png'

# runs that are in Resources/experiments/results.json are not done again; an interrupted experiment goes on
experiments: $(VENV)/.testing
	OMP_NUM_THREADS=1 $(BIN)/sesegment experiment $(PLANS) --output Resources/experiments \
	    $(if $(MEASURE),--data '$(DATA)',--report)

screenshots: $(VENV)/.testing
	$(BIN)/python Testing/harness/screenshots.py

container:
	docker build --build-arg DEVICE='$(DEVICE)' --tag sesegment .

# where docker has no daemon, the Dockerfile's steps are run over this computer's root folder, which stays as it is
container-test: $(VENV)/.testing
	$(BIN)/python Testing/container/check.py

clean:
	rm -rf $(VENV) $(OUTPUT)
