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
	@echo "==> building the C++ example against the installed package (quick the second time)"
	@cmake -S examples/cpp -B build/examples -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_PREFIX_PATH="$$($(VENV)/bin/python -c 'import sheaf, os; print(os.path.dirname(sheaf.__file__))')" >/dev/null
	@cmake --build build/examples --target inverted_index >/dev/null
	@$(VENV)/bin/python examples/demo/demo.py --cpp build/examples/inverted_index

test: env
	@$(VENV)/bin/python tests/run.py

bench: env
	@$(VENV)/bin/sheaf microbenchmark

docs: env
	@$(VENV)/bin/python docs/build.py

clean:
	rm -rf build docs/_build .venv .venv-*
