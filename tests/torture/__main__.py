"""The command `make torture`: breaks scratch clusters in the ways of `faults.py` for as long as asked, and says what
came of it. `sfss torture` runs it, too, where sfss runs from a checkout."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from tests.torture.faults import FAULTS
from tests.torture.rounds import REPORT_HEAD, Round, plants_table, report_line, run_round, told


def _known(_context: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in FAULTS:
            raise click.BadParameter(f"{name} is none of: {', '.join(FAULTS)}")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, metavar="[NAME]…", callback=_known)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of the first round.  [default: drawn]")
@click.option(
    "--minutes", type=click.FloatRange(0, min_open=True), help="For all names together.  [default: each once, briefly]"
)
@click.option(
    "--report", type=click.Path(dir_okay=False, path_type=Path), help="Add a line for each round to this file."
)
@click.option("--list", "list_", is_flag=True, help="Tell the names, and what each breaks.")
def main(names: tuple[str, ...], seed: int | None, minutes: float | None, report: Path | None, list_: bool) -> None:
    """Break a cluster of its own on this machine, and judge what its clients saw.

    Servers are real processes with data in a temporary folder. Whatever a name needs and isn't there (root, strace, …)
    is left out, and said. The exit status is 1 if an acknowledged write was lost, an answer was not legal, or another
    promise was broken.
    """
    if list_:
        for name, fault in FAULTS.items():
            click.echo(f"{name:13} {fault.breaks}" + (f"  (needs {fault.needs})" if fault.needs else ""))
        return
    names = names or tuple(FAULTS)
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    length = f"{minutes:g} minutes" if minutes is not None else "each once"
    click.echo(f"torture: {', '.join(names)}; {length}; seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="sfss-torture-"))
    rounds: list[Round] = []
    interrupted = False
    try:
        for name in names:
            for done in _rounds(name, seed, minutes * 60 / len(names) if minutes is not None else None, folder):
                rounds.append(done)
                if report is not None:
                    _report(report, done)
    except KeyboardInterrupt:
        interrupted = True
    _conclude(rounds, folder)
    if interrupted:
        click.echo("interrupted")
        sys.exit(130)
    sys.exit(1 if any(one.failures for one in rounds) else 0)


def _rounds(name: str, seed: int, seconds: float | None, folder: Path) -> Iterator[Round]:
    """Rounds of one fault, each with the next seed, until the time is over or one fails."""
    until = time.monotonic() + (seconds or 0.0)
    while True:
        done = run_round(name, seed, folder / f"{name}-{seed}", long_form=seconds is not None)
        click.echo(str(done))
        if done.plants:
            click.echo(plants_table(done.plants))
        for reason in done.left_out:
            click.echo(f"  left out: {reason}")
        for failure in done.failures:
            click.echo(f"  {failure}")
        if done.failures:
            click.echo(f"  all that was said: {folder / f'{name}-{seed}'}\n  repeat with: {done.repeat}")
        yield done
        if done.failures or not done.passed or time.monotonic() >= until:
            return
        seed = (seed + 1) % 2**32


def _report(file: Path, done: Round) -> None:
    """Add a line to a table, which is begun where there is none."""
    begin = "" if file.exists() else REPORT_HEAD + "\n"
    with file.open("a", encoding="utf-8") as table:
        table.write(f"{begin}{report_line(done)}\n")


def _conclude(rounds: list[Round], folder: Path) -> None:
    """Say how it was, all together."""
    total: Counter[str] = Counter()
    for one in rounds:
        total.update(one.figures)
    failed = [one for one in rounds if one.failures]
    passed = sum(one.passed for one in rounds)
    click.echo(f"{len(rounds)} rounds, {passed} tests passed, {len(failed)} rounds failed; {told(total)}")
    for one in failed:
        click.echo(f"repeat with: {one.repeat}")
    if not failed:
        shutil.rmtree(folder)


if __name__ == "__main__":
    for ending in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # SIGINT also where it is ignored, in the background
        signal.signal(ending, signal.default_int_handler)
    main(prog_name="torture")
