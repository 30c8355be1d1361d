# make run     start a local cluster on this machine and print what to try   (ARGS="--nodes 5" passes options on)
# make test    run the tests                                                 (ARGS="tests/unit -x" narrows them; -n 0: one by one)
# make check   lint, format, types and imports
# make bench   measure this machine                                          (ARGS passes options on)
# make torture break scratch clusters and judge what clients saw   (T=kill-node SEED=1 MINUTES=5; ARGS=--list tells names)
# make clean   remove all that the others made; ./data stays
#
# PYTHON=… chooses the interpreter that .venv is made with (3.11 or newer).

# Where a C compiler and Python's headers are installed, what every request goes through is compiled; SFSS_COMPILE=0
# leaves it interpreted.

VENV := .venv
bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check install --quiet

# A file's tests run in one process and in their order, those marked `alone` last (docs/testing.rst). A crash of a process
# ends the run: pytest-xdist would run the test that crashed again.
side_by_side := -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

folders := sfss sfss/memcache sfss/memcache/commands sfss/web sfss/web/batches proxy nodes
compiled := *__mypyc.*.so $(folders:%=%/*.so)
sources := $(wildcard $(folders:%=%/*.py))

pythons := $(or $(PYTHON),python3 $(wildcard $(addsuffix /python3,$(subst :, ,$(PATH)))) python3.14 python3.13 python3.12 python3.11)

# Whether an interpreter has all that a fast sfss needs: headers to compile with, and a build for speed. A default build
# of Python with its library apart (pyenv makes such ones) costs a tenth of the requests.
fast := import ensurepip, pathlib, sys, sysconfig, venv; \
    plain = "--enable-optimizations" not in (sysconfig.get_config_var("CONFIG_ARGS") or ""); \
    apart = "libpython" in pathlib.Path("/proc/self/maps").read_text(); \
    headers = pathlib.Path(sysconfig.get_path("include"), "Python.h").exists(); \
    sys.exit(plain and apart or not headers)

.PHONY: run test check bench torture clean

run: $(VENV)/compiled
	@exec $(bin)/sfss up $(ARGS)

test: $(VENV)/installed-test $(VENV)/compiled
	@exec $(bin)/python -m pytest $(side_by_side) $(ARGS)

check: $(VENV)/installed-check
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

bench: $(VENV)/installed-bench $(VENV)/compiled
	@exec $(bin)/python -m bench $(ARGS)

torture: $(VENV)/installed-test $(VENV)/compiled
	@exec $(bin)/python -m tests.torture $(T) $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

clean:
	rm -rf $(VENV) build dist bin eggs develop-eggs parts .installed.cfg *.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f $(compiled)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: a second `make run` starts at once; a changed setup.py installs anew.

$(VENV)/installed: setup.py pyproject.toml $(VENV)/made
	@echo "installing sfss into $(VENV) (only the first time)"
	@SFSS_COMPILE=0 $(pip) --editable '.[compile]'
	@touch $@

$(VENV)/compiled: $(VENV)/installed $(sources)
	@echo "compiling what every request goes through (half a minute, the first time and after a change)"
	@rm -rf build $(compiled) # mypyc now and then fails on what it left there of other sources
	@$(bin)/python setup.py --quiet build_ext --inplace >$(VENV)/compile.log 2>&1 || { rm -f $(compiled); \
	    echo "make: compiling failed, $(VENV)/compile.log says why; sfss runs interpreted, at about half the speed"; }
	@grep 'sfss runs interpreted' $(VENV)/compile.log || true
	@touch -c $(compiled) # what was made before and needn't be made anew keeps its old time, and would be taken for stale
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "installing what the tests need (only the first time)"
	@SFSS_COMPILE=0 $(pip) --editable '.[test]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed
	@echo "installing what sfss is measured beside, and what draws plots (only the first time)"
	@SFSS_COMPILE=0 $(pip) --editable '.[bench]'
	@touch $@

$(VENV)/installed-check: $(VENV)/installed
	@echo "installing what the checks need (only the first time)"
	@SFSS_COMPILE=0 $(pip) --editable '.[test,check]'
	@touch $@

# The first of these that is 3.11 or newer, unless a later one is faster; a .venv that an interrupted run left half made is
# made anew.
$(VENV)/made:
	@first=; \
	for python in $(pythons) ""; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    first=$${first:-$$python}; \
	    ! "$$python" -c '$(fast)' 2>/dev/null || break; \
	done; \
	python=$${python:-$$first}; \
	[ "$$python" ] || { echo "make: sfss needs Python 3.11 or newer, and $(or $(PYTHON),python3) is not; name one with" \
	    "PYTHON=/path/to/python" >&2; exit 1; }; \
	"$$python" -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "make: $$python has no venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	[ "$$python" = "$$first" ] || \
	    echo "taking $$python: $$first was built without optimization and is slower (PYTHON=$$first takes it all the same)"; \
	rm -rf $(VENV) && "$$python" -m venv $(VENV) && touch $@ || { \
	    echo "make: $$python could not make $(VENV); see above" >&2; exit 1; }
