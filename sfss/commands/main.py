"""The command `sfss`: the web tier, and what `sfss COMMAND` does beside it.

What a command needs is imported when it is asked for: `sfss ring` and `sfss up` do without HTTP, and the web tier
without all the others, in two thirds of the time that it takes to import everything.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from sfss import __version__
from sfss.errors import SetupError
from sfss.log import LEVELS
from sfss.process import VERSION_LINE
from sfss.settings import load_settings
from sfss.subcommands import check_nothing_before

_MODULES = {"backup": "backup", "restore": "backup", "ring": "ring", "torture": "torture", "up": "up"}
"""The module of `sfss.commands` that each command is in, under its own name."""


class _Commands(click.Group):
    """The commands of `_MODULES`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        command: click.Command = getattr(import_module(f"sfss.commands.{_MODULES[cmd_name]}"), cmd_name)
        return command


@click.group(cls=_Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sfss", message=VERSION_LINE)
@click.option("--config", type=click.Path(path_type=Path), help="Settings as TOML, e.g. conf/sfss.toml.")
@click.option("--host", help="Address to listen on; 0.0.0.0 or :: is everybody who can reach this machine.")
@click.option("--port", help="Port to listen on.  [default: 8255]")
@click.option("--workers", help="Processes that serve the port.  [default: 1]")
@click.option("--proxies", "storage_proxies", metavar="HOST:PORT,…", help="The proxies, or foreign memcache servers.")
@click.option("--direct", is_flag=True, default=None, help="Serve from the nodes themselves, without proxies.")
@click.option("--storages", metavar="HOST:PORT,…", help="The nodes, for --direct.")
@click.option("--secret", "storage_secret", metavar="FILE", help="User and password for them (user:password).")
@click.option("--tlsca", "storage_tls_ca", metavar="FILE", help="Speak TLS to them: the authority to trust, PEM.")
@click.option("--tlscert", "storage_tls_cert", metavar="FILE", help="Certificate to show to them, PEM.")
@click.option("--tlskey", "storage_tls_key", metavar="FILE", help="Its private key, PEM.")
@click.option("--ssl", is_flag=True, default=None, help="Speak TLS to clients.")
@click.option("--sslcert", "ssl_cert", metavar="FILE", help="Certificate chain for clients, PEM.")
@click.option("--sslkey", "ssl_key", metavar="FILE", help="Its private key, PEM.")
@click.option("--access-log", is_flag=True, default=None, help="Log every request.")
@click.option("--log-level", type=click.Choice(LEVELS), help="[default: info]")
@click.option("--log-json", is_flag=True, default=None, help="Log JSON lines.")
@click.pass_context
def main(context: click.Context, /, config: Path | None, **options: Any) -> None:
    """Store and serve files over HTTP.

    Settings come from defaults, then the file of --config, then the environment (SFSS_PORT, …), then options.
    """
    try:
        if context.invoked_subcommand is not None:
            check_nothing_before(context)
            return
        settings = load_settings(config, os.environ, options)
        from sfss.commands.web import serve_until_stopped

        sys.exit(serve_until_stopped(settings))
    except SetupError as error:
        click.echo(f"sfss: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
