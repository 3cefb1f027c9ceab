"""`lakejobs verify`: whether the lake still is what is made of its bronze."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, WRONG, asking, print_json
from lakejobs.commands.plan import difference_lines
from lakejobs.messages import counted

if TYPE_CHECKING:
    from lakejobs.explain.verify import Verified
    from lakejobs.freshness.runs import Run

CELLS = 10


@click.command(epilog=EPILOG)
@click.option("--days", type=click.IntRange(min=1), help="Only the newest days of each domain; otherwise all.")
@asking
def verify(run: Run, days: int | None, as_json: bool) -> int:
    """Make the lake anew from bronze, beside it, and compare: damaged files and drift, by name.

    Changes nothing. What is due is not verified; gold tables are always computed as a whole.

    Exits 0 if all that was verified is as it should be, 1 if not, 2 if something cannot be verified.
    """
    from lakejobs.explain import verify as verifying

    def watch(what: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"{what} …", err=True)

    found = verifying.check(run, days, watch)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        click.echo("\n".join(said(found)))
    return 1 if found.damaged or found.drifted else WRONG if found.failed else 0


def said(found: Verified) -> list[str]:
    """What was verified, in words."""
    lines = list(found.damaged)
    for name, difference in found.drifted.items():
        lines += difference_lines(f"{name} (as it is → as it should be)", difference, CELLS)
    lines += [f"cannot be verified: {what}" for what in found.failed]
    lines += [f"not verified: {what}" for what in found.skipped]
    checked = (
        f"{counted(found.files, 'bronze file')}, {counted(found.partitions, 'silver partition')} and "
        f"{counted(found.tables, 'gold table')} verified"
    )
    bad = len(found.damaged) + len(found.drifted)
    rest = "; the rest was not verified" if found.failed or found.skipped else ""
    return [*lines, f"{checked}: {counted(bad, 'difference') if bad else 'all of them as they should be'}{rest}"]
