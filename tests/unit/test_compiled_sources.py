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


def test_there_is_something_to_look_at() -> None:
    assert len(compiled_sources()) > 30
