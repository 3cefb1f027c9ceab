"""`lakejobs test`: run the examples of gold tables as tests.

`<table>.test.yaml` beside a table's SQL is a list of cases: a `name`, the rows `given` to each source, and the rows to
`expect`. Given rows have their source's types; an omitted column is NULL, an omitted source is empty. Only the columns
that the expected rows name are compared, in any order of rows.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from lakejobs.messages import LakeError, counted, few

if TYPE_CHECKING:
    from lakejobs.engine.duckdb import Connection
    from lakejobs.tables import Table

SUFFIX = ".test.yaml"
PARTS = {"name", "given", "expect"}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One example of a gold table."""

    table: str
    name: str
    path: str
    """Path of its file, as messages show it."""
    given: Mapping[str, Sequence[Row]]
    expect: Sequence[Row]

    def __str__(self) -> str:
        return f"{self.table}: {self.name}"

    @property
    def place(self) -> str:
        return f"{self.path}, case {self.name!r}"

    def difference(self) -> str | None:
        """The difference between computed and expected rows, as readable lines; None if there is none.

        Raises LakeError if the example or the table's SQL is broken.
        """
        table = _table(self.table)
        with tempfile.TemporaryDirectory() as spill:
            return _difference(self, table, spill)

    def check(self) -> None:
        """For pytest: raise AssertionError if the computed rows differ from the expected ones."""
        __tracebackhide__ = True
        try:
            difference = self.difference()
        except LakeError as error:
            difference = str(error)
        assert difference is None, f"{self.place}\n{difference}"


@click.command()
@click.argument("tables", metavar="[TABLE]...", nargs=-1)
def test(tables: tuple[str, ...]) -> None:
    """Run the examples of gold tables.

    They are in TABLE.test.yaml beside each table's SQL. Without TABLE, runs the examples of all tables.
    """
    from lakejobs import project
    from lakejobs.tables import broken_tables

    failed = 0
    for broken in project.broken_domains().values():
        failed += 1
        click.echo(f"FAILED  {broken}")
    for name in _names(tables):
        if reason := broken_tables().get(name):
            failed += 1
            click.echo(f"FAILED  {name}: {reason}")
            continue
        try:
            found = cases(name)
        except LakeError as error:
            failed += 1
            click.echo(f"FAILED  {name}: {error}")
            continue
        if not found:
            click.echo(f"-       {name} has no examples; add some in {name}{SUFFIX} beside its SQL")
        for case in found:
            try:
                difference = case.difference()
            except LakeError as error:
                difference = f"  {error}"
            click.echo(f"{'FAILED' if difference else 'ok    '}  {case}")
            if difference:
                failed += 1
                click.echo(f"{difference}\n  in {case.path}")
    if failed:
        click.echo(f"{counted(failed, 'failure')}", err=True)
        raise SystemExit(1)


def cases(*tables: str) -> list[Case]:
    """The examples of all gold tables, or of the given ones. Raises LakeError if a file cannot be read."""
    from lakejobs import project

    wanted = set(_names(tables))
    known = set(_names(()))
    found: list[Case] = []
    for table, path in project.table_files(SUFFIX):
        if table not in known:
            raise LakeError(
                f"{project.shown(path)} belongs to no gold table; expected one of {', '.join(sorted(known))}"
            )
        if table in wanted:
            found += _read(table, path, project.shown(path))
    return found


def _names(tables: Sequence[str]) -> list[str]:
    """The given tables, or all."""
    from lakejobs.tables import read_sql

    known = sorted({name for name, _, _ in read_sql()})
    for name in tables:
        if name not in known:
            raise LakeError(f"unknown gold table {name!r}; expected one of {', '.join(known)}")
    return list(tables) or known


def _table(name: str) -> Table:
    from lakejobs.tables import broken_tables, tables

    if name in broken_tables():
        raise LakeError(broken_tables()[name])
    return tables()[name]


# ------------------------------------------------------------------------------------------------ reading


def _read(table: str, path: str, shown: str) -> Iterator[Case]:
    """The cases of a file."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with open(path, encoding="utf-8") as handle:
            content = YAML(typ="safe", pure=True).load(handle)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise LakeError(f"{shown}{f', line {mark.line + 1}' if mark else ''}: {problem}") from None
    except UnicodeDecodeError:
        raise LakeError(f"{shown} is not UTF-8 text") from None
    except OSError as error:
        raise LakeError(f"{shown} cannot be read: {error.strerror}") from None
    if not isinstance(content, list):
        raise LakeError(f"{shown}: expected a list of cases, each with name, given and expect")
    for number, case in enumerate(content, start=1):
        yield _case(table, shown, number, case)


def _case(table: str, path: str, number: int, content: Any) -> Case:
    where = f"{path}, case {number}"
    if not isinstance(content, dict) or set(content) != PARTS:
        raise LakeError(f"{where}: a case needs name, given and expect, and nothing else")
    given, expect = content["given"] or {}, content["expect"] or []
    where = f"{path}, case {content['name']!r}"
    if not isinstance(given, dict):
        raise LakeError(f"{where}: given must name sources, each with a list of rows")
    for what, rows in [*((f"given {source}", rows or []) for source, rows in given.items()), ("expect", expect)]:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise LakeError(f"{where}: {what} must be a list of rows, each {{column: value, …}}")
    if len({frozenset(row) for row in expect}) > 1:
        raise LakeError(f"{where}: all expected rows must name the same columns")
    return Case(table, str(content["name"]), path, {source: rows or [] for source, rows in given.items()}, expect)


# ------------------------------------------------------------------------------------------------ running


def _difference(case: Case, table: Table, spill: str) -> str | None:
    from lakejobs.engine import QueryError

    if strange := [source for source in case.given if source not in sources(table)]:
        raise LakeError(f"{case.place}: {table.name} does not read {few(strange)}; it reads {few(sources(table))}")
    with _connection(spill) as engine:
        for source in sources(table):
            _give(case, source, columns_of(source, spill), engine)
        try:
            engine.run(f"create temp table computed as select * from ({table.statement}\n) as computed")
        except QueryError as error:
            raise LakeError(f"{table.path}: {' '.join(str(error).split())}") from error
        types = _described("computed", engine)
        names = list(case.expect[0]) if case.expect else list(types)
        if strange := [name for name in names if name not in types]:
            raise LakeError(f"{case.place}: {table.name} has no column {few(strange)}; it has {few(types, 50)}")
        rows = engine.rows(f"select {', '.join(map(_quoted, names))} from computed")
    kinds = [types[name] for name in names]
    found = Counter(tuple(map(_comparable, row, kinds)) for row in rows)
    expected = Counter(tuple(map(_comparable, (row[name] for name in names), kinds)) for row in case.expect)
    if found == expected:
        return None
    lines = []
    for title, some in (("expected, but missing", expected - found), ("computed, but not expected", found - expected)):
        if some:
            lines += [f"  {title}:", *(f"    {line}" for line in _lines(names, some))]
    return "\n".join(lines)


def sources(table: Table) -> tuple[str, ...]:
    """The domains and gold tables that a table reads."""
    return tuple(source.name for source in table.sources)


def columns_of(source: str, spill: str) -> dict[str, str]:
    """The columns and SQL types of a domain's silver rows, or of a gold table."""
    from lakejobs.engine import QueryError
    from lakejobs.layers.gold import sql_types
    from lakejobs.project import domains
    from lakejobs.tables import tables

    if source in domains():
        return sql_types(domains()[source])
    with _connection(spill) as engine:
        table = tables()[source]
        for read in sources(table):
            columns = [f"cast(null as {kind}) as {_quoted(name)}" for name, kind in columns_of(read, spill).items()]
            engine.run(f"create temp view {read} as select {', '.join(columns)} limit 0")
        try:
            engine.run(f"create temp view made as select * from ({table.statement}\n) as computed")
            return {**_described("made", engine), "generated_at": "TIMESTAMP"}
        except QueryError as error:
            raise LakeError(f"{table.path}: {' '.join(str(error).split())}") from error


def _connection(spill: str) -> Connection:
    from lakejobs.config import lake as settings
    from lakejobs.engine.duckdb import Connection

    return Connection(spill, settings().memory_limit, lambda path: open(path, "rb"))


def _described(relation: str, engine: Connection) -> dict[str, str]:
    return {str(name): str(kind) for name, kind, *_ in engine.rows(f"describe {relation}")}


def _give(case: Case, source: str, columns: Mapping[str, str], engine: Connection) -> None:
    """Create a source's table with the rows it is given."""
    from lakejobs.engine import QueryError

    kinds = ", ".join(f"{_quoted(name)} {kind}" for name, kind in columns.items())
    engine.run(f"create temp table {source} ({kinds})")
    for number, row in enumerate(case.given.get(source, ()), start=1):
        where = f"{case.place}: given {source}, row {number}"
        if strange := [name for name in row if name not in columns]:
            raise LakeError(f"{where}: {source} has no column {few(strange)}; it has {few(columns, 50)}")
        # Given rows are valid unless they say otherwise, because gold reads only valid rows.
        filled = {"is_valid": True, **row} if "is_valid" in columns else row
        values = ", ".join(f"cast({_literal(value)} as {columns[name]})" for name, value in filled.items())
        names = ", ".join(map(_quoted, filled))
        try:
            engine.run(f"insert into {source} {f'({names}) values ({values})' if filled else 'default values'}")
        except QueryError as error:
            raise LakeError(f"{where}: {' '.join(str(error).split())}") from None


def _literal(value: Any) -> str:
    from lakejobs.engine.sql import text

    return "null" if value is None else text(str(_plain(value)))


def _plain(value: Any) -> Any:
    """A datetime with an offset as naive UTC, the lake's form; any other value as it is."""
    if isinstance(value, dt.datetime) and value.tzinfo:
        return value.astimezone(dt.UTC).replace(tzinfo=None)
    return value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# ------------------------------------------------------------------------------------------------ comparing


def _comparable(value: Any, kind: str) -> Any:
    """A computed or expected value in a form that compares equal if it should: doubles are rounded to 12 digits."""
    value = _plain(value)
    if value is None or kind == "BOOLEAN":
        return value
    with contextlib.suppress(ValueError, InvalidOperation):
        if kind in ("DOUBLE", "FLOAT"):
            return float(f"{float(value):.12g}")
        if kind.startswith("DECIMAL") or kind.endswith(("INT", "INTEGER")):
            return Decimal(str(value))
        if kind.startswith("TIMESTAMP"):
            return _plain(dt.datetime.fromisoformat(str(value)))
    return str(value)


def _lines(names: Sequence[str], rows: Counter[tuple[Any, ...]]) -> list[str]:
    """Aligned rows below a header of their columns' names."""
    texts = [["NULL" if value is None else str(value) for value in row] for row in rows.elements()]
    widths = [max(map(len, column)) for column in zip(names, *texts, strict=True)]
    return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in [list(names), *sorted(texts)]]
