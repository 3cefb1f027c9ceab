"""`lakejobs restatements`: what changed in days that were over and published."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import click

from lakejobs.commands.asking import EPILOG, asking, known_tables, print_json
from lakejobs.messages import LakeError, counted, few

if TYPE_CHECKING:
    from lakejobs.freshness.runs import Run

CELLS = 20


@click.command(epilog=EPILOG)
@click.argument("table", required=False, shell_complete=known_tables)
@click.option("--all", "show_all", is_flag=True, help=f"Show all cells, not the first {CELLS} of each restatement.")
@asking
def restatements(run: Run, table: str | None, show_all: bool, as_json: bool) -> int:
    """Show the cells of TABLE, or of all gold tables, that changed after their day was over: when, and why.

    Exits 0, also if there are none.
    """
    from lakejobs.freshness import restatements as log
    from lakejobs.tables import tables

    if table is not None and table not in tables():
        raise LakeError(f"unknown gold table {table}; expected one of {few(tables(), 30)}")
    names = [table] if table else [*tables()]
    rows = log.read(run, names)
    found = {name: [row for row in rows if row["table_name"] == name] for name in names}
    if as_json:
        print_json(found)
        return 0
    lines = [line for name, rows in found.items() for line in said(name, rows, show_all)]
    click.echo("\n".join(lines or ["No cell of a day that was over has changed since it was published."]))
    return 0


def said(table: str, rows: list[dict[str, Any]], show_all: bool) -> list[str]:
    """The restatements of a table in words, the latest last."""
    lines = []
    for (moment, cause), group in itertools.groupby(rows, lambda row: (row["restated_at"], row["cause"])):
        cells = list(group)
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S} UTC {table}: {counted(len(cells), 'cell')}, because {cause}")
        shown = cells if show_all else cells[:CELLS]
        for cell in shown:
            key = ", ".join("NULL" if value is None else str(value) for value in json.loads(cell["key"]).values())
            old, new = ("NULL" if cell[side] is None else cell[side] for side in ("old", "new"))
            lines.append(f"    {key}: {cell['column_name']} {old} → {new}")
        if len(cells) > len(shown):
            lines.append(f"    and {len(cells) - len(shown):,} more; --all shows all")
    return lines
