"""`lakejobs plan`: what the next GoldAll would do, and why."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from lakejobs.commands.asking import EPILOG, asking, print_json
from lakejobs.messages import counted, few, span

if TYPE_CHECKING:
    from lakejobs.engine.comparing import Difference, Flips
    from lakejobs.explain.effects import Effects
    from lakejobs.explain.plan import Plan, Step
    from lakejobs.freshness.runs import Run
    from lakejobs.model import Cause

CAUSES = 5
CELLS = 10


@click.command(epilog=EPILOG)
@click.option("--effects", is_flag=True, help="Carry it out beside the lake, and show the rows and cells that change.")
@partial(asking, needs_lake=False)
def plan(run: Run, effects: bool, as_json: bool) -> int:
    """Show what the next GoldAll would do, task by task, and the cause of each.

    Changes nothing. Exits 0, also if there is nothing to do, and 2 if something would fail.
    """
    from lakejobs.explain import plan as plans

    made = plans.make(run)
    found = None
    if effects:
        from lakejobs.explain import effects as effect

        found = effect.find(run, made)
    if as_json:
        print_json(dataclasses.asdict(made) | ({"effects": dataclasses.asdict(found)} if found else {}))
    else:
        click.echo("\n".join(said(made) + (effects_said(found) if found else [])))
    return 2 if made.problems or (found and found.problems) else 0


def said(plan: Plan) -> list[str]:
    """A plan in words."""
    lines = []
    for step in plan.steps:
        lines.append(f"{step.layer} {step.name}: {_what(step)}")
        lines += cause_lines(step.causes, CAUSES, len(step.dates) if step.layer != "gold" else 0)
        if step.leads_to:
            lines.append(f"    → {few(step.leads_to, 20)}")
    lines += [f"{name}: {reason}" for name, reason in plan.problems.items()]
    return lines or ["Nothing is due: the next GoldAll has nothing to do."]


def _what(step: Step) -> str:
    dates = span([dt.date.fromisoformat(day) for day in step.dates])
    if step.layer == "bronze":
        return dates
    if step.layer == "silver":
        return f"{dates}, {counted(step.records, 'record')}" if step.records else f"{dates}, to be removed"
    if step.days is None:
        return "as a whole"
    return f"{len(step.dates):,} of {counted(step.days, 'day')}"


def cause_lines(causes: Iterable[Cause], most: int, all_dates: int = 0) -> list[str]:
    """Causes in words, with what was edited, and the dates of those that do not concern all of them."""
    lines = []
    listed = list(causes)
    for cause in listed[:most]:
        where = span([dt.date.fromisoformat(day) for day in cause.dates]) if len(cause.dates) < all_dates else ""
        records = counted(cause.records, "record") if cause.records else ""
        more = ", ".join(part for part in (records, where) if part)
        lines.append(f"    {cause}{f' ({more})' if more else ''}")
        lines += [f"      {line}" for line in edited(cause.old, cause.new)]
    if len(listed) > most:
        lines.append(f"    and {len(listed) - most:,} more; --json lists all")
    return lines


def edited(old: str | None, new: str | None) -> list[str]:
    """The lines that differ between two texts, marked with - and +; a text that is new or gone in one line."""
    import difflib

    if old is None or new is None:
        return [f"{mark} {' '.join(text.split())}" for mark, text in (("-", old), ("+", new)) if text is not None]
    found = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [f"{line[0]} {line[1:].strip()}" for line in [*found][2:] if not line.startswith("@@")]


# ------------------------------------------------------------------------------------------------ effects


def effects_said(found: Effects) -> list[str]:
    """Effects in words."""
    lines = [""]
    for domain, flips in found.silver.items():
        lines.append(f"silver {domain}: {_flips(flips)}")
        for codes, verb in ((flips.gained, "now"), (flips.lost, "no longer")):
            lines += [f"    {verb} {code}: {counted(count, 'row')}, such as {row}" for code, count, row in codes]
    for table, difference in found.gold.items():
        other = found.compared_with.get(table)
        than = f" (than in {other}, as the newest snapshot is damaged)" if other else ""
        lines += difference_lines(f"gold {table}{than}", difference, CELLS)
    return lines + [f"{name}: {reason}" for name, reason in found.problems.items()]


def _flips(flips: Flips) -> str:
    said = [
        (flips.invalid, "now invalid"),
        (flips.valid, "now valid"),
        (flips.added, "new"),
        (flips.removed, "gone"),
        (flips.recoded, "invalid by other rules"),
        (flips.changed, "with other values"),
    ]
    return ", ".join(f"{counted(number, 'row')} {what}" for number, what in said if number) or "no row changes"


def difference_lines(name: str, difference: Difference, most: int) -> list[str]:
    """A difference in words: how much, then the first cells."""
    if not difference:
        return [f"{name}: no cell changes"]
    said = [
        (len(difference.added), "row", "new"),
        (len(difference.removed), "row", "gone"),
        (len(difference.changed), "cell", "changed"),
        (len(difference.new_columns), "column", "new"),
        (len(difference.old_columns), "column", "gone"),
    ]
    lines = [f"{name}: " + ", ".join(f"{counted(number, thing)} {what}" for number, thing, what in said if number)]
    shown = [f"new: {_key(key)}" for key in difference.added] + [f"gone: {_key(key)}" for key in difference.removed]
    shown = [
        f"{_key(cell.key)}: {cell.column} {value(cell.old)} → {value(cell.new)}" for cell in difference.changed
    ] + shown
    shown = [f"new column {name}" for name in difference.new_columns] + shown
    shown = [f"column {name} is gone" for name in difference.old_columns] + shown
    lines += [f"    {line}" for line in shown[:most]]
    if len(shown) > most:
        lines.append(f"    and {len(shown) - most:,} more; --json lists all")
    return lines


def _key(key: tuple[Any, ...]) -> str:
    return ", ".join(map(value, key)) or "the only row"


def value(one: Any) -> str:
    """A value as people read it."""
    return "NULL" if one is None else f"{one:,}" if isinstance(one, int | float) else str(one)
