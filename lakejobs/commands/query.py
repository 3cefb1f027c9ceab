"""`lakejobs sql`: query the lake."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import click

from lakejobs.commands.asking import EPILOG, asking
from lakejobs.freshness.runs import Run
from lakejobs.layers import views
from lakejobs.messages import LakeError, counted

NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER|\d+)?|FLOAT\d*|DOUBLE|DECIMAL.*|BIGNUM", re.IGNORECASE)
# Text that would pass for NULL, for nothing, for text in quotes, or for an end of the line.
AMBIGUOUS = re.compile(r"NULL|'.*'|(\s.*|.*\s)?", re.DOTALL)
ESCAPED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


@click.command(epilog=EPILOG)
@click.argument("query", default="")
@click.option("--csv", "as_csv", is_flag=True, help='Answer in CSV: an empty field is NULL, "" is an empty text.')
@click.option("--rows", default=100, show_default=True, help="How many rows of a table to print; 0 prints all.")
@asking
def sql(run: Run, query: str, as_csv: bool, rows: int, as_json: bool) -> None:
    """Query the lake in DuckDB's SQL: lakejobs sql "select * from gold.daily_sales_summary"

    \b
    bronze.<domain>        every record of the accepted files, as text
    silver.<domain>        every row; silver.<domain>_valid: the valid ones
    gold.<table>           the newest snapshot
    gold.<table>_history   all snapshots, with the column snapshot
    quality.runs           what each run did; quality.restatements: what changed in days that were over

    If QUERY is -, it is read from standard input. Times are UTC. Nothing is ever written.
    """
    if query == "-":
        query = sys.stdin.read()
    if not query.strip():
        raise LakeError(
            'no query: give one, such as lakejobs sql "show all tables", or - to read it from standard input'
        )
    if as_csv and as_json:
        raise LakeError("--csv and --json exclude each other")
    if rows < 0:
        raise LakeError(f"--rows {rows}: expected 0 or more")
    with views.reader(run, query) as reader:
        kinds = reader.answer_columns(query)
        if as_json:
            write(json_list(reader.answer_json(query)))
        elif as_csv:
            write(map(csv_line, itertools.chain([[*kinds]], reader.answer(query))))
        else:
            found = [*reader.answer(query, rows + 1 if rows else None)]
            shown = found[: rows or None]
            write(table(kinds, shown))
            said = counted(len(shown), "row")
            if len(found) > len(shown):
                said = f"{said} of {reader.count(query):,}; --rows 0, --csv and --json print all"
            write([f"({said})"])


def write(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def json_list(rows: Iterable[str]) -> Iterator[str]:
    """Lines of a JSON list, from its elements."""
    yield "["
    before = None
    for row in rows:
        if before is not None:
            yield f"{before},"
        before = without_infinity(row) if "NaN" in row or "Infinity" in row else row
    if before is not None:
        yield before
    yield "]"


def without_infinity(row: str) -> str:
    """A JSON text with null for numbers that JSON does not have."""
    return json.dumps(json.loads(row, parse_constant=lambda name: None), ensure_ascii=False, separators=(",", ":"))


def csv_line(row: Sequence[str | None]) -> str:
    return ",".join("" if value is None else csv_field(value) for value in row)


def csv_field(value: str) -> str:
    needs_quotes = not value or any(character in value for character in ',"\r\n')
    return '"' + value.replace('"', '""') + '"' if needs_quotes else value


def table(kinds: Mapping[str, str], rows: Sequence[Sequence[str | None]]) -> Iterator[str]:
    """Lines of a table, of types by column; on a terminal that is too narrow for it, one line a value."""
    texts = [kind == "VARCHAR" for kind in kinds.values()]
    cells = [[shown(value, is_text) for value, is_text in zip(row, texts, strict=True)] for row in rows]
    names = [escaped(name) for name in kinds]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) - 2 > shutil.get_terminal_size().columns:
        widest = max(map(len, names))
        for number, row in enumerate(cells, 1):
            yield f"-- row {number}"
            yield from (f"{name:{widest}}  {cell}" for name, cell in zip(names, row, strict=True))
        return
    sides = [">" if NUMBER.fullmatch(kind) else "<" for kind in kinds.values()]
    for line in (names, ["-" * width for width in widths], *cells):
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True))
        yield "  ".join(padded).rstrip()


def shown(value: str | None, is_text: bool) -> str:
    """A value in one line; text that would pass for something else is in quotes."""
    if value is None:
        return "NULL"
    return f"'{escaped(value)}'" if is_text and AMBIGUOUS.fullmatch(value) else escaped(value)


def escaped(value: str) -> str:
    return "".join(ESCAPED.get(character, character) for character in value) if not value.isprintable() else value
