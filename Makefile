# make run     start a local cluster on this machine and print what to try   (ARGS="--nodes 5" passes options on)
# make test    run the tests                                                 (ARGS="tests/unit -x" narrows them)
# make check   lint, format, types and imports
# make bench   measure this machine                                          (ARGS passes options on)
# make clean   remove all that the others made; ./data stays
#
# PYTHON=… chooses the interpreter that .venv is made with (3.11 or newer).

VENV := .venv
bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check install --quiet

.PHONY: run test check bench clean

run: $(VENV)/installed
	@exec $(bin)/sfss up $(ARGS)

test: $(VENV)/installed-test
	@exec $(bin)/python -m pytest $(ARGS)

check: $(VENV)/installed-check
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

bench: $(VENV)/installed-test
	@exec $(bin)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) build dist bin eggs develop-eggs parts .installed.cfg *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: a second `make run` starts at once; a changed setup.py installs anew.

$(VENV)/installed: setup.py pyproject.toml $(VENV)/made
	@echo "installing sfss into $(VENV) (only the first time)"
	@$(pip) --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "installing what the tests need (only the first time)"
	@$(pip) --editable '.[test]'
	@touch $@

$(VENV)/installed-check: $(VENV)/installed
	@echo "installing what the checks need (only the first time)"
	@$(pip) --editable '.[test,check]'
	@touch $@

# The first of these that is 3.11 or newer; a .venv that an interrupted run left half made is made anew.
$(VENV)/made:
	@for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    "$$python" -c 'import venv, ensurepip' 2>/dev/null || { \
	        echo "make: $$python has no venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	    rm -rf $(VENV) && "$$python" -m venv $(VENV) && touch $@ && exit 0; \
	    echo "make: $$python could not make $(VENV); see above" >&2; exit 1; \
	done; \
	echo "make: sfss needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not; name one with PYTHON=/path/to/python" >&2; \
	exit 1
