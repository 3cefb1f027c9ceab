"""`lakejobs trace`: where a number comes from.

Of a key, it shows every record that bronze holds, and what became of it. Of a row of a gold table, it shows the rows
behind it, and proves them: the table's SQL, run over exactly these, gives the row.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import difflib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import click

from lakejobs.commands.asking import EPILOG, asking, known_names, print_json
from lakejobs.explain import trace as tracing
from lakejobs.explain.trace import Behind, CellTrace, KeyTrace, NoRowError, Record
from lakejobs.freshness.runs import Run
from lakejobs.messages import LakeError, counted, few, percent, span
from lakejobs.project import broken_domains, domains
from lakejobs.tables import broken_tables, tables

NOT_SO = 1
"""The exit code if nobody knows the key or the row, or the proof fails."""
SOME = 5
"""Rows that are shown."""
LONGEST = 40
"""Characters of a value in a table of rows."""
LONGEST_TEXT = 2_000
"""Characters of a record's raw text."""


@click.command(epilog=EPILOG)
@click.argument("name", shell_complete=known_names)
@click.argument("values", metavar="VALUE...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Show all rows behind a row of a gold table.")
@click.option("--csv", "path", metavar="PATH", help="Write all of them to a CSV file; - is standard output.")
@asking
def trace(run: Run, name: str, values: tuple[str, ...], every: bool, path: str | None, as_json: bool) -> int:
    """Show where a number comes from.

    \b
    lakejobs trace sales S-123
        what became of every record with that key
    lakejobs trace daily_sales_summary date=2026-11-01
        the rows behind a row of a gold table, and the proof

    VALUE is a part of the domain's key, or of the table's grain: COLUMN=VALUE, or the values alone in their order.
    NULL is a row of a gold table without a value. Put -- before values that begin with a dash.

    Exits 1 if there is no such key or row, if the table's SQL does not give the row from the rows behind it, or if
    silver has not what a record gives.
    """
    if name in domains():
        if every or path:
            raise LakeError("--all and --csv are for rows of a gold table; of a key, all records are shown anyway")
        return _show_key(tracing.key(run, name, _key(name, values)), as_json)
    if name in tables():
        if path == "-" and (as_json or every):
            raise LakeError("--csv - leaves no room for other output; write the CSV to a file")
        try:
            with tracing.cell(run, name, _grain(name, values)) as found:
                return _show_cell(found, every, path, as_json)
        except NoRowError as error:
            if as_json:
                print_json({"table": name, "is_known": error.is_ambiguous, "problem": str(error), "rows": error.rows})
            else:
                click.echo(error)
                if error.is_ambiguous:
                    click.echo("\n".join(f"  {_given(row)}" for row in error.rows[:20]))
                    if len(error.rows) > 20:
                        click.echo(f"  and {len(error.rows) - 20:,} more")
            return NOT_SO
    raise LakeError(_unknown(name))


def _unknown(name: str) -> str:
    """What to say of a name that is neither a domain nor a gold table."""
    for broken in (broken_domains(), broken_tables()):
        if name in broken:
            return broken[name]
    known = [*domains(), *tables()]
    close = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {close[0]}?" if close else f"expected one of {few(known, 30)}"
    return f"there is no domain or gold table {name}; {hint}"


def _key(domain: str, values: Sequence[str]) -> dict[str, str]:
    """The given values by column of a domain's key."""
    keys = domains()[domain].keys
    given, rest = _by_column(values, keys)
    open_ = [name for name in keys if name not in given]
    if len(rest) != len(open_):
        wanted = " ".join(name.upper() for name in keys)
        raise LakeError(f"the key of {domain} is {', '.join(keys)}: lakejobs trace {domain} {wanted}")
    return given | dict(zip(open_, rest, strict=True))


def _grain(table: str, values: Sequence[str]) -> dict[str, str | None]:
    """The given values by column of a table's grain, None for NULL."""
    grain = tables()[table].grain
    given, rest = _by_column(values, grain)
    open_ = [name for name in grain if name not in given]
    for value in rest:
        column, equals, _ = value.partition("=")
        if equals and re.fullmatch(r"\w+", column):
            raise LakeError(f"{table} has no column {column} in its grain; it has {', '.join(grain)}")
    if len(rest) > len(open_):
        raise LakeError(f"{table} has one row for each {', '.join(grain)}; got {len(values)} values")
    return {
        name: None if value == "NULL" else value
        for name, value in {**given, **dict(zip(open_, rest, strict=False))}.items()
    }


def _by_column(values: Sequence[str], columns: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """The values that name one of the columns, and the others."""
    given: dict[str, str] = {}
    rest = []
    for value in values:
        column, equals, text = value.partition("=")
        if equals and column.lower() in columns:
            given[column.lower()] = text
        else:
            rest.append(value)
    return given, rest


# ------------------------------------------------------------------------------------------------ a key


def _show_key(found: KeyTrace, as_json: bool) -> int:
    is_right = found.records and not any(one.fate == tracing.LOST or one.differs for one in found.records)
    if as_json:
        print_json(
            {
                "domain": found.domain,
                "key": found.key,
                "records": [_record_json(one) for one in found.records],
                "close": found.close,
                "notes": found.notes,
            }
        )
        return 0 if is_right else NOT_SO
    name = f"{found.domain} {' '.join(found.key.values())}"
    if not found.records:
        click.echo(
            f"{name}: no record in bronze has this key"
            + (f"; did you mean {' or '.join(found.close)}?" if found.close else "")
        )
    else:
        click.echo(f"{name}: {counted(len(found.records), 'record')} in bronze")
    for one in found.records:
        click.echo("\n" + "\n".join(_record_lines(one)))
    for note in found.notes:
        click.echo(f"\nNote: {note}.")
    return 0 if is_right else NOT_SO


def _record_lines(one: Record) -> list[str]:
    number = f"record {one.record:,}, " if one.record is not None else ""
    text = one.text if len(one.text) <= LONGEST_TEXT else f"{one.text[:LONGEST_TEXT]}… ({len(one.text):,} characters)"
    lines = [f"{one.file}, {number}line {one.line:,}", *(f"  | {part}" for part in re.split("\r\n|\r|\n", text))]
    fate = one.fate
    if one.superseded_by:
        file, number_there = one.superseded_by
        fate += f" by record {number_there:,} of {'the same file' if file == one.file else file}"
    lines.append(f"  {fate}" + (f": {one.why}" if one.why else f", in {one.silver}"))
    lines += [f"    {code}" + (f": {meaning}" if meaning else "") for code, meaning in one.codes.items()]
    for column, (reported, stored) in one.corrections.items():
        lines.append(f"  corrected: {column} was {_shown(reported)}, is {_shown(stored)}")
    lines += [f"  rescued: {column} was {value!r}" for column, value in one.rescued.items()]
    for column, (stored, given) in one.differs.items():
        lines.append(
            f"  DIFFERS: silver has {column} {_shown(stored)}, but this record gives {_shown(given)}; silver was "
            "changed by something else"
        )
    notes = {cell.note for cell in one.cells}
    if len(notes) == 1 and not any(cell.grain for cell in one.cells):
        lines.append(f"  gold: in no row of {', '.join(cell.table for cell in one.cells)}: {notes.pop()}")
    else:
        for cell in one.cells:
            where = f"{cell.table} {_given(cell.grain)}".rstrip()
            lines.append(f"  gold: {'' if cell.is_in else 'not in '}{where}" + (f" ({cell.note})" if cell.note else ""))
    return lines


def _record_json(one: Record) -> dict[str, Any]:
    return {
        "file": one.file,
        "record": one.record,
        "line": one.line,
        "text": one.text,
        "fate": one.fate,
        "why": one.why or None,
        "codes": one.codes,
        "superseded_by": one.superseded_by and {"file": one.superseded_by[0], "record": one.superseded_by[1]},
        "corrections": {name: {"reported": old, "stored": new} for name, (old, new) in one.corrections.items()},
        "rescued": one.rescued,
        "differs": {name: {"silver": stored, "record": given} for name, (stored, given) in one.differs.items()},
        "date": one.date,
        "silver": one.silver,
        "gold": [dataclasses.asdict(cell) for cell in one.cells],
    }


# ------------------------------------------------------------------------------------------------ a gold row


def _show_cell(found: CellTrace, every: bool, path: str | None, as_json: bool) -> int:
    code = 0 if found.is_proven else NOT_SO
    if path == "-":
        _write_csv(found, sys.stdout)
        if not found.is_proven:
            click.echo("\n".join(_proof(found)), err=True)
        return code
    written = _write_file(found, path) if path else ""
    if as_json:
        print_json(_cell_json(found, every))
        return code
    click.echo("\n".join([*_cell_lines(found, every), "", *_proof(found), *([written] if written else [])]))
    return code


def _cell_lines(found: CellTrace, every: bool) -> list[str]:
    width = max(map(len, found.values), default=0)
    lines = [f"{found.table} {_given(found.grain)}"]
    lines += [f"  {name:<{width}}  {_shown(value)}" for name, value in found.values.items()]
    lines.append(f"  in {found.snapshot}, of {_shown(found.generated_at)} UTC")
    for behind in found.sources:
        lines += ["", _headline(behind)]
        shares = [[f"{rows:,}", percent(rows / behind.rows), file] for file, rows in behind.files]
        lines += _aligned(shares, ["rows", "share", "file"]) if shares else []
        if behind.excluded:
            whose = span(behind.days) if behind.days else "these days"
            lines += ["", f"Not in it, of the records of {behind.domain} on {whose}:"]
            for one in behind.excluded:
                said = "" if one.in_group is None or len(found.grain) == 1 else f", {one.in_group:,} in this group"
                what = one.reason if one.reason == tracing.SUPERSEDED or " " in one.reason else f"invalid {one.reason}"
                lines.append(f"  {one.records:,} {what}{said}")
        some = found.rows(behind, None if every else SOME)
        if some:
            how = "The rows" if len(some) == behind.rows else f"The first {len(some)} (--all or --csv for all)"
            lines += ["", f"{how}:", *_table(found, behind, some)]
    return lines


def _headline(behind: Behind) -> str:
    through = f", by way of {', then '.join(behind.through)}" if behind.through else ""
    said = f"{counted(behind.rows, 'valid row')} of {behind.domain} {'is' if behind.rows == 1 else 'are'} behind it"
    if behind.is_exact:
        return f"{said}{through}" + (f", from {counted(len(behind.files), 'file')}:" if behind.files else ".")
    how = f"all with the same {', '.join(behind.known)}" if behind.known else f"all of {span(behind.days)}"
    return f"{said}{through}: {how}. The SQL reads these, but it cannot be told which of them it passes over:"


def _proof(found: CellTrace) -> list[str]:
    lines = []
    if found.is_proven:
        lines.append(f"Proof: run over exactly these rows, the SQL of {found.table} gives the same values.")
    else:
        lines.append(f"NOT PROVEN: run over these rows, the SQL of {found.table} gives other values:")
        lines += [
            f"  {one.column}: the snapshot has {_shown(one.stored)}, computed again it is {_shown(one.computed)}"
            + ("" if one.grain == found.grain else f" (in the row {_given(one.grain)})")
            for one in found.differences[:20]
        ]
        if not found.changes and not found.damaged:
            lines.append(
                "By what the files say of themselves, they should be the same: something else changed the snapshot or "
                "silver, or the SQL depends on the order of rows or on the clock."
            )
    if found.changes:
        lines += ["The next run computes it again, because", *(f"  {change}" for change in found.changes)]
    if found.unread:
        lines.append(f"The next run may change it, because it reads {' and '.join(found.unread)}.")
    lines += [f"DAMAGED: {path} is not as lakejobs wrote it; the next run rebuilds it." for path in found.damaged]
    return lines


def _table(found: CellTrace, behind: Behind, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows, with the columns of the key and those that the table's SQL names."""
    domain = domains()[behind.domain]
    read_by = tables()[behind.through[0] if behind.through else found.table]
    words = set(re.findall(r"\w+", re.sub("--.*", "", read_by.statement.lower())))
    names = [name for name in domain.columns if name in words or name in domain.keys or name == domain.event_time]
    texts = [[str(row["source_record"]), *(_shown(row[name])[:LONGEST] for name in names)] for row in rows]
    return _aligned(texts, ["record", *names])


def _aligned(rows: Sequence[Sequence[str]], header: Sequence[str]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [f"  {'  '.join(map(str.ljust, row, widths))}".rstrip() for row in (header, *rows)]


def _cell_json(found: CellTrace, every: bool) -> dict[str, Any]:
    return {
        "table": found.table,
        "grain": found.grain,
        "values": found.values,
        "snapshot": found.snapshot,
        "generated_at": found.generated_at,
        "sources": [
            {
                "domain": one.domain,
                "through": one.through,
                "days": one.days,
                "rows": one.rows,
                "is_exact": one.is_exact,
                "selected_by": one.known,
                "files": [{"file": file, "rows": rows, "share": rows / one.rows} for file, rows in one.files],
                "invalid": one.invalid,
                "excluded": [dataclasses.asdict(excluded) for excluded in one.excluded],
                "examples": found.rows(one, None if every else SOME),
            }
            for one in found.sources
        ],
        "is_proven": found.is_proven,
        "differences": [dataclasses.asdict(one) for one in found.differences],
        "changes": found.changes,
        "unread": found.unread,
        "damaged": found.damaged,
    }


def _write_file(found: CellTrace, path: str) -> str:
    try:
        with open(path, "w", encoding="utf-8", newline="") as handle:
            rows = _write_csv(found, handle)
    except OSError as error:
        raise LakeError(f"{path} cannot be written: {error.strerror}") from None
    return f"Wrote {counted(rows, 'row')} to {path}."


def _write_csv(found: CellTrace, handle: TextIO) -> int:
    """Write all rows behind a row, as silver has them; returns how many. Several domains share the columns."""
    sources = [(behind.domain, found.rows(behind)) for behind in found.sources]
    names = list(dict.fromkeys(name for _, rows in sources for row in rows[:1] for name in row))
    writer = csv.DictWriter(handle, [*(["domain"] if len(sources) > 1 else []), *names], extrasaction="ignore")
    writer.writeheader()
    for domain, rows in sources:
        writer.writerows({"domain": domain, **row} for row in rows)
    return sum(len(rows) for _, rows in sources)


def _given(grain: Mapping[str, Any]) -> str:
    """Values as they are given to this command."""
    return " ".join(f"{name}={_shown(value)}" for name, value in grain.items())


def _shown(value: Any) -> str:
    if value is None:
        return "NULL"
    return value.isoformat(" ") if isinstance(value, dt.datetime) else str(value)
