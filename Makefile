# Two commands on a bare machine: `make demo` and `make test`. Each does its own set-up in .venv.
PYTHON ?= python3
BIN := .venv/bin
DATA ?= ../shared/data

.PHONY: demo test tests check results bench lock clean

.venv/.installed: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("mmrec needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch -c constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[llm,offline,openvino,peers,ray,serve,postgres,dev]' -c constraints.txt
	touch $@

demo: .venv/.installed
	$(BIN)/mmrec demo --out demo

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Side by side: many tests wait for processes and servers.
test: .venv/.installed
	$(MAKE) --no-print-directory -j 2 check tests

tests:
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=10

# Peers, the paper's experiment and ablations on each real data set; rewrites docs/results.md. Takes hours; what is done is
# kept in runs/results, so that it goes on where it was stopped.
results: .venv/.installed
	$(BIN)/python bench/results.py $(DATA) --out docs/results.md

# Calls to a model server, crashes, the encoder, large catalogues, runs trained as one, features of ten million reviews, the
# service, a cold and a warm store on the largest set; wants an idle machine for an hour, and 40 GB of disk. With DLRM=FOLDER, a
# checkout of facebookresearch/dlrm, that one trains beside ours.
bench: .venv/.installed
	$(BIN)/python bench/calls.py throughput
	$(BIN)/python bench/read_kills.py annotate
	$(BIN)/python bench/read_kills.py serve
	$(BIN)/python bench/read_kills.py serve --postgresql
	$(BIN)/python bench/encoder.py $(DATA)/gmaps-wa/reviews.jsonl.gz
	$(BIN)/python bench/captioners.py $(DATA)/rt-critics/posters
	$(BIN)/python bench/stacked.py $(if $(DLRM),--peer $(DLRM))
	$(BIN)/python bench/features.py --plot docs/features.png
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/kills.py save
	$(BIN)/python bench/cluster.py $(DATA)/gmaps-wa/reviews.jsonl.gz
	$(BIN)/mmrec demo --out demo
	$(BIN)/python bench/service.py demo load
	$(BIN)/python bench/service.py demo kills
	$(BIN)/python bench/service.py demo kills --postgresql
	$(BIN)/python bench/catalogue.py demo --items 20000 --correction 0.1 --http
	$(BIN)/python bench/cold_warm.py $(DATA)/gmaps-wa/reviews.jsonl.gz --items $(DATA)/gmaps-wa/places.jsonl.gz

# After a change of constraints.txt; wants uv. Without torch, whose build (CPU, CUDA) is the user's choice and has other
# hashes, and the libraries of CUDA that some builds need: those come by version alone.
LOCK := uv pip compile --quiet pyproject.toml -c constraints.txt --universal --generate-hashes --no-header --no-annotate
WITHOUT_TORCH := awk '/^[a-z]/ {skip = /^(torch==|triton|cuda-|nvidia-)/} !skip'
lock:
	$(LOCK) --all-extras | $(WITHOUT_TORCH) > requirements.lock
	$(LOCK) --extra serve --extra postgres --extra offline --extra llm | $(WITHOUT_TORCH) > deploy/requirements.lock

clean:
	rm -rf .venv demo
