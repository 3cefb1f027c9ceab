"""`lakejobs diff`: what differs between two snapshots of a table, or between two lakes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, known_names, print_json
from lakejobs.commands.plan import difference_lines

if TYPE_CHECKING:
    from lakejobs.freshness.runs import Run

CELLS = 20
MOMENTS = ["%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d"]


@click.command(epilog=EPILOG)
@click.argument("target", shell_complete=known_names)
@click.argument("older", required=False)
@click.argument("newer", required=False)
@click.option("--as-of", type=click.DateTime(MOMENTS), help="Compare the newest snapshot with that of a moment (UTC).")
@click.option("--with", "other", metavar="ROOT", help="Compare with the lake there, which counts as the newer one.")
@click.option("--all", "show_all", is_flag=True, help=f"Show all cells, not the first {CELLS}.")
@asking
def diff(
    run: Run, target: str, older: str | None, newer: str | None, as_of: dt.datetime | None, other: str | None,
    show_all: bool, as_json: bool,
) -> int:  # fmt: skip
    """Show the rows and cells of TARGET that differ between two snapshots, by its grain.

    TARGET is a gold table. OLDER and NEWER are snapshots by name, by the stamp in it, or the beginning of that;
    without them, the newest two are compared. With --with, TARGET can also be silver/sales/2026-11-01.

    Exits 0 if nothing differs, 1 if something does, 2 if the question has no answer.
    """
    from lakejobs.explain import diff as differing

    found = differing.find(run, target, older, newer, as_of, other)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        lines = [f"- {found.older}", f"+ {found.newer}"]
        most = sys.maxsize if show_all else CELLS
        click.echo("\n".join(lines + difference_lines(target, found.difference, most)))
    return 1 if found.difference else 0
