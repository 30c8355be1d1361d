"""How a change of the ring is said on a command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import click

from sfss.commands.ring_nodes import address_of
from sfss.errors import SetupError
from sfss.ring import WEIGHT_MAX
from sfss.ring_plan import Change

T = TypeVar("T")
Command = Callable[..., None]

_NUMBERS = re.compile(r"([0-9]{1,3})/([0-9]{1,3})/([0-9]{1,3})").fullmatch
_ID = re.compile(r"[0-9a-f]{8,32}").fullmatch


def configuration(command: Command) -> Command:
    """The option that says which cluster."""
    return click.option(
        "--conf", type=click.Path(path_type=Path), required=True, metavar="FILE", help="A proxy's configuration."
    )(command)


def change_options(command: Command) -> Command:
    """The options that say what is to be different."""
    for option in (
        click.option("--quorum", metavar="N/W/R", help="Copies of a file, and how many a write and a read need."),
        click.option("--zone", multiple=True, metavar="NODE=ZONE", help="What a node may fail together with."),
        click.option("--weight", multiple=True, metavar="NODE=N", help="A node's share beside the others."),
        click.option("--replace", multiple=True, metavar="OLD=NEW", help="A node that comes in another one's place."),
        click.option("--remove", multiple=True, metavar="NODE", help="A node that goes."),
        click.option("--add", multiple=True, metavar="NODE", help="A node that comes."),
        configuration,
    ):
        command = option(command)
    return command


class Asked(NamedTuple):
    """What was given for them."""

    add: tuple[str, ...]
    remove: tuple[str, ...]
    replace: tuple[str, ...]
    weight: tuple[str, ...]
    zone: tuple[str, ...]
    quorum: str | None

    @property
    def numbers(self) -> tuple[int, int, int] | None:
        """N, W and R, where they are to be others. Raises `SetupError`."""
        if self.quorum is None:
            return None
        found = _NUMBERS(self.quorum)
        if found is None:
            raise SetupError(f"--quorum {self.quorum}: it takes three numbers, N/W/R, as 3/2/2")
        return int(found[1]), int(found[2]), int(found[3])

    def change(self, names: Mapping[str, str]) -> Change:
        """`names` has the ring's name of each node whose id is known. Raises `SetupError`."""

        def name(text: str) -> str:
            return _name(text, names)

        return Change(
            tuple(map(name, self.add)),
            tuple(map(name, self.remove)),
            _pairs("--replace", self.replace, name, name),
            _pairs("--weight", self.weight, name, _weight),
            _pairs("--zone", self.zone, name, str),
        )


def _name(text: str, names: Mapping[str, str]) -> str:
    """A node as the ring names it."""
    if _ID(text):
        found = [name for node, name in names.items() if node.startswith(text)]
        if len(found) == 1:
            return found[0]
        raise SetupError(f"{len(found)} nodes that are known here have an id that begins with {text}")
    return address_of(text).ring_name


def _pairs(option: str, texts: tuple[str, ...], name: Callable[[str], str], read: Callable[[str], T]) -> dict[str, T]:
    pairs: dict[str, T] = {}
    for text in texts:
        node, equals, value = text.partition("=")
        if not (node and equals and value.strip()):
            raise SetupError(f"{option} {text}: it takes two things with = between them")
        node = name(node)
        if node in pairs:
            raise SetupError(f"{option} is given twice for {node}")
        pairs[node] = read(value.strip())
    return pairs


def _weight(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= WEIGHT_MAX):
        raise SetupError(f"weight {text} is not a whole number between 1 and {WEIGHT_MAX}")
    return int(text)
