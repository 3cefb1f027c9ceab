"""`lakejobs invalid`: the invalid rows of a domain, as they were delivered."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import os
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, known_domains, print_json
from lakejobs.messages import LakeError, counted, few

if TYPE_CHECKING:
    from lakejobs.explain.invalid import Invalid
    from lakejobs.freshness.runs import Run

OURS = ("_errors", "_file", "_record", "_line")


@click.command(epilog=EPILOG)
@click.argument("domain", shell_complete=known_domains)
@click.option("--since", type=click.DateTime(["%Y-%m-%d"]), metavar="DAY", help="Only the days from this one on.")
@click.option("--code", help="Only the rows with this code, such as NULL:customer_id.")
@click.option("--out", metavar="PATH", help="Write the rows as CSV to this file, which must not exist.")
@asking
def invalid(run: Run, domain: str, since: dt.datetime | None, code: str | None, out: str | None, as_json: bool) -> int:
    """Count the invalid rows of DOMAIN by code, or write them to a file.

    The file has the columns of DOMAIN as delivered, and for each row its codes, its bronze file, the number of its
    record there, and the text of a malformed line. Exits 1 if there are invalid rows, else 0.
    """
    from lakejobs.explain import invalid as asked
    from lakejobs.project import broken_domains, domains

    if domain in broken_domains():
        raise LakeError(broken_domains()[domain])
    if domain not in domains():
        raise LakeError(f"unknown domain {domain}; expected one of {few(domains(), 30)}")
    if out and os.path.lexists(out):
        raise LakeError(f"{out} exists; name another file, because none is overwritten")
    found = asked.invalid(run, domain, since.date() if since else None, code)
    if out:
        write(out, found)
    if as_json:
        print_json({"rows": [dataclasses.asdict(row) for row in found.rows], "notes": found.notes})
    else:
        for known, rows, first, last in found.by_code:
            click.echo(f"{rows:>12,}  {known}, {f'{first} … {last}' if first < last else first}")
        click.echo(f"{counted(len(found.rows), 'invalid row')} of {domain}" + (f" in {out}" if out else ""))
        for note in found.notes:
            click.echo(note, err=True)
    return 1 if found.rows else 0


def write(out: str, found: Invalid) -> None:
    """Write the rows as a CSV file that can be corrected and delivered."""
    try:
        with open(out, "x", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow([*found.columns, *OURS])
            for row in found.rows:
                writer.writerow([*row.values, row.errors, row.file, row.record, row.line])
    except OSError as error:
        raise LakeError(f"{out} cannot be written: {error.strerror}") from None
