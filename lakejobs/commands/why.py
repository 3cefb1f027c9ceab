"""`lakejobs why`: why something in the lake is fresh, or will be rebuilt."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from lakejobs.commands.asking import EPILOG, asking, known_names, print_json
from lakejobs.commands.plan import cause_lines
from lakejobs.messages import counted, few

if TYPE_CHECKING:
    from lakejobs.explain.why import Answer
    from lakejobs.freshness.runs import Run

CAUSES = 20
FILES = 10


@click.command(epilog=EPILOG)
@click.argument("target", nargs=-1, required=True, shell_complete=known_names)
@asking
def why(run: Run, target: tuple[str, ...], as_json: bool) -> int:
    """Say why TARGET is fresh or will be rebuilt, by the names of what changed.

    TARGET is a table (daily_sales_summary), a domain (sales), either with a day (daily_sales_summary 2026-11-01),
    silver/sales/2026-11-01, or a path in the lake. Changes nothing.

    Exits 0 if it is fresh, 1 if it is due, 2 if the question has no answer.
    """
    from lakejobs.explain import why as whys

    answer = whys.ask(run, whys.find(run, target))
    if as_json:
        print_json(dataclasses.asdict(answer))
    else:
        click.echo("\n".join(said(answer)))
    return 1 if answer.is_due else 0


def said(answer: Answer) -> list[str]:
    """An answer in words."""
    if not answer.is_due:
        return [f"{answer.target} is fresh: {_fresh(answer)}", f"    {answer.path}", *_files(answer)]
    some = f" ({counted(answer.due, 'day')} of {answer.made_from['days']:,})" if answer.due else ""
    lines = [f"{answer.target} is due{some}:", *cause_lines(answer.causes, CAUSES)]
    if "files" in answer.made_from or "inputs" in answer.made_from:
        lines += [f"  It was made from {_made_from(answer)}", *_files(answer)]
    for below in answer.below:
        lines += ["", *said(below)]
    return lines


def _fresh(answer: Answer) -> str:
    if answer.target.layer == "bronze":
        return "everything staged for it has landed, and the manifest describes the files that are there"
    if answer.target.layer == "gold":
        return f"it was made from {_made_from(answer)}, all as they are now"
    if answer.target.date is None:
        days, records = answer.made_from["days"], answer.made_from["records"]
        return f"all of its {counted(days, 'day')} are, with {counted(records, 'record')}" if days else "it has no rows"
    return f"it was made from {_made_from(answer)}, all as they are now"


def _made_from(answer: Answer) -> str:
    made_from = answer.made_from
    if answer.target.layer == "gold":
        sources = [
            f"{counted(len(days), 'day')} of silver {name}" if name not in days else f"gold {name}"
            for name, days in made_from["inputs"].items()
        ]
        moment = made_from["generated_at"][:19].replace("T", " ")
        return f"{few(sources)} with its SQL by {made_from['engine']} at {moment} UTC"
    files = made_from["files"]
    said = f"{counted(sum(records for *_, records in files), 'record')} of {counted(len(files), 'file')}"
    if "rules" in made_from:
        said += (
            f", {counted(len(made_from['rules']) + len(made_from['warnings']), 'rule')}, the domain and the settings"
        )
    return said


def _files(answer: Answer) -> list[str]:
    files = answer.made_from.get("files", ())
    lines = [f"    {name} ({counted(records, 'record')})" for name, *_, records in files[:FILES]]
    return lines + ([f"    and {len(files) - FILES:,} more; --json lists all"] if len(files) > FILES else [])
