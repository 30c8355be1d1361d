"""Runs the packages' sources in this process, also where they are compiled.

Tests put fakes in places where compiled code takes only the real class, and planted faults replace methods; both work
on sources alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType

PACKAGES = frozenset({"sfss", "proxy", "nodes"})
ROOT = Path(__file__).parents[1]


class SourceFinder(MetaPathFinder):
    """Finds modules of the packages as source files, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES:
            return None
        for folder in sys.path if path is None else path:
            spec = FileFinder(folder or ".", (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(fullname)
            if spec is not None:
                return spec
        return None


_sources = SourceFinder()


def use_sources() -> None:
    """From the next import on."""
    sys.meta_path.insert(0, _sources)


def use_compiled() -> None:
    """From the next import on, where something is compiled. Raises `RuntimeError` where sources have been imported
    already: compiled classes that inherit from theirs end the process."""
    if imported := sorted(PACKAGES & sys.modules.keys()):
        raise RuntimeError(f"the sources of {', '.join(imported)} have been imported already")
    sys.meta_path.remove(_sources)


def changed_since_compiled() -> list[str]:
    """Sources that are newer than what was compiled of them, which is what the processes would run."""
    stale = []
    for package in PACKAGES:
        for library in (ROOT / package).rglob("*.so"):
            source = library.with_name(library.name.partition(".")[0] + ".py")
            if source.exists() and source.stat().st_mtime > library.stat().st_mtime:
                stale.append(str(source.relative_to(ROOT)))
    return stale
