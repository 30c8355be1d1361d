"""Commands that do something by themselves and have sub-commands beside it."""

from __future__ import annotations

import click
from click.core import ParameterSource

from sfss.errors import SetupError


def check_nothing_before(context: click.Context) -> None:
    """Refuse options before a sub-command: they are the command's own, and would be dropped without a word."""
    given = [
        option.opts[-1]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        sub = context.invoked_subcommand
        raise SetupError(f"{', '.join(given)} before `{sub}` would do nothing; options go after `{sub}` (see {sub} -h)")
