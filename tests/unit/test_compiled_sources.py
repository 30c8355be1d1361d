"""What mypyc takes otherwise than Python does is kept out of the modules that it compiles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def compiled_sources() -> list[str]:
    """The modules that setup.py names."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMPILED":
            libraries = ast.literal_eval(node.value)
            return [
                f"{folder}/{name}.py"
                for folders in libraries.values()
                for folder, names in folders.items()
                for name in names.split()
            ]
    return []


def names_bound_twice(source: str) -> list[str]:
    """Names that two `except` clauses of one function bind to different kinds of error: mypyc takes the second for the
    kind of the first, and raises TypeError."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            kinds: dict[str, str] = {}
            for clause in ast.walk(function):
                if isinstance(clause, ast.ExceptHandler) and clause.name and clause.type:
                    kind = ast.unparse(clause.type)
                    if kinds.setdefault(clause.name, kind) != kind:
                        found.append(f"{function.name}, line {clause.lineno}: {clause.name}")
    return found


def interpreted_heirs(sources: dict[str, str], compiled: list[str]) -> list[str]:
    """Classes of modules that aren't compiled with a parent in one that is: the first one made raises TypeError."""
    homes = {
        f"{path[:-3].replace('/', '.')}.{node.name}"
        for path in compiled
        for node in ast.parse(sources[path]).body
        if isinstance(node, ast.ClassDef)
        and not {"NamedTuple", "Protocol"} & {ast.unparse(base) for base in node.bases}
    }
    found = []
    for path in sorted(sources.keys() - set(compiled)):
        tree = ast.parse(sources[path])
        imported = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                parents = {imported.get(ast.unparse(base), "") for base in node.bases}
                found += [f"{path}: {node.name} of {parent}" for parent in parents & homes]
    return found


def test_what_inherits_from_compiled_classes_is_compiled() -> None:
    paths = [path for package in ("sfss", "proxy", "nodes") for path in (ROOT / package).rglob("*.py")]
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
    assert interpreted_heirs(sources, compiled_sources()) == []


def test_an_interpreted_heir_is_found() -> None:
    sources = {"a/base.py": "class Base: pass", "a/heir.py": "from a.base import Base\nclass Heir(Base): pass"}
    assert interpreted_heirs(sources, ["a/base.py"]) == ["a/heir.py: Heir of a.base.Base"]
    assert interpreted_heirs(sources, ["a/base.py", "a/heir.py"]) == []


@pytest.mark.parametrize("path", compiled_sources())
def test_each_kind_of_error_has_a_name_of_its_own(path: str) -> None:
    assert names_bound_twice((ROOT / path).read_text()) == []


def test_a_name_for_two_kinds_of_errors_is_found() -> None:
    source = """
def f():
    try: g()
    except OSError as error: h(error)
    except ValueError as error: h(error)
"""
    assert names_bound_twice(source) == ["f, line 5: error"]


@pytest.mark.parametrize("path", compiled_sources())
def test_no_class_is_hidden_from_the_garbage_collector(path: str) -> None:
    assert "acyclic=" not in (ROOT / path).read_text()


def test_there_is_something_to_look_at() -> None:
    assert len(compiled_sources()) > 30
