"""`sfss torture`: break a scratch cluster of this sfss and judge what its clients saw, from a checkout.

What breaks and judges is in the folder `tests`, which is no part of the installed packages; see docs/testing.rst.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import click

import sfss
from sfss.errors import SetupError

CHECKOUT = Path(sfss.__file__).parents[1]


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def torture(arguments: tuple[str, ...]) -> None:
    """Break a scratch cluster, and judge what its clients saw."""
    try:
        _check()
    except SetupError as error:
        click.echo(f"sfss torture: {error}", err=True)
        sys.exit(2)
    os.chdir(CHECKOUT)
    os.execv(sys.executable, [sys.executable, "-m", "tests.torture", *arguments])  # noqa: S606  no shell is wanted


def _check() -> None:
    """Raises `SetupError` where the tests, or what they need, aren't there."""
    if not (CHECKOUT / "tests" / "torture").is_dir():
        raise SetupError(
            "the tests that it runs aren't installed with sfss; in a checkout or an unpacked archive of its sources: "
            "make torture (make torture ARGS=--list tells what there is)"
        )
    if find_spec("pytest") is None:
        raise SetupError(f"it needs the packages of the tests: {sys.executable} -m pip install '{CHECKOUT}[test]'")
