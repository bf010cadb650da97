# make env | demo | test | bench | docs | clean. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(notdir $(PYTHON))
endif

.PHONY: env demo test bench docs clean

env:
	@cmake/env.sh $(PYTHON) $(VENV)

demo: env
	@$(VENV)/bin/python examples/demo/demo.py

test: env
	@$(VENV)/bin/python tests/run.py

bench: env
	@$(VENV)/bin/sheaf microbenchmark

docs: env
	@$(VENV)/bin/python docs/build.py

clean:
	rm -rf build docs/_build .venv .venv-*
