"""What is in the way of a change: nodes by name, each with its reason, and files that can't be read."""

from __future__ import annotations

from collections.abc import Mapping

_NODES_TOLD = 6
_FILES_TOLD = 3
_REASON_CHARACTERS_MAX = 160


class Blocked(Exception):
    """Something can't be done now. `nodes` and `files` have a reason each, by name."""

    def __init__(self, nodes: Mapping[str, object] | None = None, files: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self.nodes = nodes or {}
        self.files = files or {}


class Trouble:
    """All that was in the way of one attempt, each node and each file once; true where there is anything. Told in one
    line of bounded length, which stays the same as long as the same is in the way."""

    def __init__(self, nodes: Mapping[str, object] | None = None) -> None:
        self._nodes = dict(nodes or {})
        self._files: dict[str, object] = {}
        self._more_files: set[str] = set()
        self._any = bool(nodes)

    def add(self, blocked: Blocked) -> None:
        self._any = True
        self._nodes |= blocked.nodes
        self._files |= blocked.files
        while len(self._files) > _FILES_TOLD:
            last = max(self._files)
            del self._files[last]
            self._more_files.add(last)

    def __bool__(self) -> bool:
        return self._any

    def __str__(self) -> str:
        told = [f"{name}: {_short(reason)}" for name, reason in sorted(self._nodes.items())]
        if len(told) > _NODES_TOLD:
            told[_NODES_TOLD:] = [f"{len(told) - _NODES_TOLD} more nodes"]
        told += [f"{name} can't be read ({_short(reason)})" for name, reason in sorted(self._files.items())]
        if self._more_files:
            told.append(f"{len(self._more_files)} more can't be read")
        return "; ".join(told)


def _short(reason: object) -> str:
    text = " ".join(str(reason).split())
    return text if len(text) <= _REASON_CHARACTERS_MAX else text[:_REASON_CHARACTERS_MAX] + "…"
