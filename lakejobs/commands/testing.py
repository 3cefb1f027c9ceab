"""`lakejobs test`: run the examples of gold tables as tests.

`<table>.test.yaml` beside a table's SQL is a list of cases: a `name`, the rows `given` to each source, and the rows to
`expect`. Given rows have their source's types; an omitted column is NULL, an omitted source is empty. Only the columns
that the expected rows name are compared, in any order of rows.

The rows are computed by the lake's engine and its rules: a table by date sees, of each source, the rows of one day at a
time.

A case or file that cannot be read is a case that fails, so that all others run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import click

from lakejobs.commands.asking import known_tables
from lakejobs.engine.types import FALSE, TRUE
from lakejobs.messages import LakeError, counted, few

if TYPE_CHECKING:
    from lakejobs.engine import Engine, Rows
    from lakejobs.engine.duckdb import Connection
    from lakejobs.tables import Source, Table

SUFFIX = ".test.yaml"
PARTS = ("name", "given", "expect")
DECIMAL = re.compile(r"[+-]?(?:[0-9]+[.]?[0-9]*|[.][0-9]+)")
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One example of a gold table."""

    table: str
    name: str
    place: str
    """Its file, as messages show it, and line."""
    given: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    expect: Sequence[Row] = ()
    problem: str | None = None
    """Why it cannot be read, and where."""

    def __str__(self) -> str:
        return f"{self.table}: {self.name}"

    def difference(self) -> str | None:
        """The difference between computed and expected rows, as readable lines; None if there is none.

        Raises LakeError if the example or the table's SQL is broken.
        """
        if self.problem:
            raise LakeError(self.problem)
        table = _table(self.table)
        with tempfile.TemporaryDirectory() as directory:
            return _difference(self, table, directory)

    def check(self) -> None:
        """For pytest: raise AssertionError if the computed rows differ from the expected ones."""
        __tracebackhide__ = True
        try:
            difference = self.difference()
        except LakeError as error:
            raise AssertionError(str(error)) from None
        assert difference is None, f"{self.place}\n{difference}"


@click.command()
@click.argument("tables", metavar="[TABLE]...", nargs=-1, shell_complete=known_tables)
def test(tables: tuple[str, ...]) -> None:
    """Run the examples of gold tables.

    They are in TABLE.test.yaml beside each table's SQL. Without TABLE, runs the examples of all tables.

    Exits 0 if all hold, 1 if anything fails or is broken.
    """
    from lakejobs import project

    found = cases(*tables)
    for name in _names(tables):
        if not any(case.table == name for case in found):
            click.echo(f"-       {name} has no examples; add some in {name}{SUFFIX} beside its SQL")
    for reason in project.broken_domains().values():
        click.echo(f"FAILED  {reason}")
    failed = len(project.broken_domains())
    for case in found:
        try:
            difference = case.difference()
            said = f"{difference}\n  in {case.place}" if difference else None
        except LakeError as error:
            said = f"  {error}"
        click.echo(f"{'FAILED' if said else 'ok    '}  {case}")
        if said:
            failed += 1
            click.echo(said)
    if failed:
        click.echo(f"{counted(failed, 'failure')}", err=True)
        raise SystemExit(1)


def cases(*tables: str) -> list[Case]:
    """The examples of the given gold tables, or of all.

    For a table that is broken, a chart that cannot be drawn, and a file that belongs to no table, there is a case that
    fails.
    """
    from lakejobs import project

    known, files = _names(()), project.table_files(SUFFIX)
    found: list[Case] = []
    for name in _names(tables):
        try:
            found += _undrawable(_table(name))
        except LakeError as error:
            found.append(Case(name, "broken", name, problem=str(error)))
        else:
            found += [case for table, path in files if table == name for case in _read(name, path, project.shown(path))]
    for table, path in files:
        if table not in known and not tables:
            problem = f"{project.shown(path)} belongs to no gold table; expected one of {few(known, 20)}"
            found.append(Case(table, "no such table", project.shown(path), problem=problem))
    return found


def _undrawable(table: Table) -> list[Case]:
    """A case for each chart that names a column which the table does not have.

    Raises LakeError if the table's SQL cannot be run.
    """
    with tempfile.TemporaryDirectory() as directory:
        there = [name for name in columns_of(table.name, directory) if name != "generated_at"]
    known = {name.lower() for name in there}
    found = []
    for chart in table.charts:
        if unknown := [name for name in chart.columns if name not in known]:
            place = f"{table.path}, line {chart.line}"
            problem = f"{place}: {table.name} has no column {few(unknown)} to chart; it has {few(there, 50)}"
            found.append(Case(table.name, f"chart {chart.title}", place, problem=problem))
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


class Number(float):
    """A number as it is written: a float has no more than 17 of its digits."""

    written: str

    def __str__(self) -> str:
        return self.written


def _yaml() -> Any:
    """A reader of YAML that keeps the digits of numbers."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        def construct_yaml_float(self, node: Any) -> float:
            found = super().construct_yaml_float(node)
            if not DECIMAL.fullmatch(node.value):
                return float(found)
            number = Number(found)
            number.written = node.value
            return number

    Constructor.add_constructor("tag:yaml.org,2002:float", Constructor.construct_yaml_float)
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = Constructor
    return reader


def _read(table: str, path: str, shown: str) -> list[Case]:
    """The cases of a file."""
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import SequenceNode

    from lakejobs.project import read_text

    try:
        root = _yaml().compose(read_text(path))
        if not isinstance(root, SequenceNode):
            raise LakeError(f"{shown}: expected a list of cases, each with name, given and expect")
    except (LakeError, YAMLError) as error:
        return [Case(table, "unreadable examples", shown, problem=_problem(error, shown, shown))]
    return [_case(table, shown, number, node) for number, node in enumerate(root.value, start=1)]


def _case(table: str, path: str, number: int, node: Any) -> Case:
    from ruamel.yaml.error import YAMLError

    name, place = f"case {number}", f"{path}, line {node.start_mark.line + 1}"
    try:
        content = _yaml().constructor.construct_document(node)
        if isinstance(content, dict):
            name = str(content.get("name") or name)
        given, expect = _parts(content, place)
    # A value that YAML takes for a date or a number, such as 2026-13-01, may be none for Python.
    except (LakeError, YAMLError, ValueError, LookupError, ArithmeticError) as error:
        return Case(table, name, place, problem=_problem(error, path, place))
    return Case(table, name, place, given, expect)


def _problem(error: Exception, path: str, place: str) -> str:
    """What is wrong and where; YAML's own errors know the line."""
    if isinstance(error, LakeError):
        return str(error)
    mark = getattr(error, "problem_mark", None)
    where = f"{path}, line {mark.line + 1}" if mark else place
    return f"{where}: {getattr(error, 'problem', None) or ' '.join(str(error).split())}"


def _parts(content: Any, place: str) -> tuple[dict[str, Sequence[Row]], Sequence[Row]]:
    """The given and the expected rows of a case."""
    if not isinstance(content, dict):
        raise LakeError(f"{place}: expected a case with the keys {', '.join(PARTS)}, got {content!r}")
    for what, names in (
        ("unknown", [name for name in content if name not in PARTS]),
        ("missing", [name for name in PARTS if name not in content]),
    ):
        if names:
            raise LakeError(f"{place}: {what} {few(names)}; expected the keys {', '.join(PARTS)}")
    given, expect = content["given"] or {}, content["expect"] or []
    if not isinstance(given, dict):
        raise LakeError(f"{place}: given must name sources, each with a list of rows")
    for what, rows in [*((f"given {source}", rows or []) for source, rows in given.items()), ("expect", expect)]:
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise LakeError(f"{place}: {what} must be a list of rows, each {{column: value, …}}")
    if len({frozenset(row) for row in expect}) > 1:
        raise LakeError(f"{place}: all expected rows must name the same columns")
    return {source: rows or [] for source, rows in given.items()}, expect


# ------------------------------------------------------------------------------------------------ running


def _difference(case: Case, table: Table, directory: str) -> str | None:
    if strange := [source for source in case.given if source not in sources(table)]:
        raise LakeError(f"{case.place}: {table.name} does not read {few(strange)}; it reads {few(sources(table))}")
    paths = {source.name: _give(case, table, source, directory) for source in table.sources}
    snapshot = _snapshot(table, paths, directory)
    with _engine(directory).tables({"computed": snapshot}) as made:
        types = _described("computed", made)
        own = [name for name in types if name != "generated_at"]
        names = list(case.expect[0]) if case.expect else own
        if strange := [name for name in names if name not in types]:
            raise LakeError(f"{case.place}: {table.name} has no column {few(strange)}; it has {few(own, 50)}")
        rows = made.rows(f"select {', '.join(map(_quoted, names))} from computed")
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


def _snapshot(table: Table, paths: Mapping[str, Mapping[str, str]], directory: str) -> str:
    """Compute a table from the files of its sources, as the lake does; returns the snapshot's path."""
    from lakejobs.layers.gold import check_sources, days_to_compute, gold_job, write

    check_sources(table)
    # Only the days matter here, not the identities of their files.
    days, _ = days_to_compute(table, {}, {source: dict(found) for source, found in paths.items()})
    path = os.path.join(directory, f"{table.name}.parquet")
    write(table, gold_job(table, paths, days, dt.datetime.now(dt.UTC)), _engine(directory), path, "{}")
    return path


def sources(table: Table) -> tuple[str, ...]:
    """The domains and gold tables that a table reads."""
    return tuple(source.name for source in table.sources)


def columns_of(source: str, directory: str) -> dict[str, str]:
    """The columns and SQL types of a domain's silver rows, or of a gold table."""
    from lakejobs.engine.types import silver_types
    from lakejobs.project import domains

    if source in domains():
        return silver_types(domains()[source])
    with _engine(directory).tables({"computed": _nothing(source, directory)[""]}) as made:
        return _described("computed", made)


def _nothing(source: str, directory: str) -> dict[str, str]:
    """The files of a source without rows: none of a domain, an empty snapshot of a gold table."""
    from lakejobs.project import domains
    from lakejobs.tables import tables

    if source in domains():
        return {}
    table = tables()[source]
    return {"": _snapshot(table, {read: _nothing(read, directory) for read in sources(table)}, directory)}


def _engine(directory: str) -> Engine:
    """The lake's engine, on local files."""
    from lakejobs.config import lake as settings
    from lakejobs.engine.local import LocalEngine

    return LocalEngine(lambda _: contextlib.nullcontext(directory), settings().memory_limit, list)


def _connection(spill: str) -> Connection:
    from lakejobs.config import lake as settings
    from lakejobs.engine.duckdb import Connection

    return Connection(spill, settings().memory_limit)


def _described(relation: str, engine: Rows) -> dict[str, str]:
    return {str(name): str(kind) for name, kind, *_ in engine.rows(f"describe {relation}")}


def _give(case: Case, table: Table, source: Source, directory: str) -> dict[str, str]:
    """Write the rows that a source is given to Parquet files, by day if the table reads it by day; returns their paths.

    As in the lake, a gold table is one file.
    """
    from lakejobs.engine import QueryError
    from lakejobs.project import domains

    columns = columns_of(source.name, directory)
    is_domain = source.name in domains()
    day = None
    if table.is_by_day and not source.all_days:
        day = domains()[source.name].event_time if is_domain else "date"
    paths: dict[str, str] = {}
    with _connection(directory) as engine:
        kinds = ", ".join(f"{_quoted(name)} {kind}" for name, kind in columns.items())
        engine.run(f"create temp table given ({kinds})")
        for number, row in enumerate(case.given.get(source.name, ()), start=1):
            where = f"{case.place}: given {source.name}, row {number}"
            try:
                _insert(source.name, row, columns, where, engine)
            except QueryError as error:
                raise LakeError(f"{where}: {' '.join(str(error).split())}") from None
            if day and row.get(day) is None:
                raise LakeError(f"{where}: it needs a {day}, because {table.name} reads {source.name} day by day")
        # A domain without rows has no files; a gold table always has a snapshot.
        file_of = f"cast({_quoted(day)} as date)" if day and is_domain else "''"
        found = [str(one) for (one,) in engine.rows(f"select distinct {file_of} from given order by 1")]
        for name in found if is_domain else [""]:
            paths[name] = os.path.join(directory, f"{source.name}_given_{name}.parquet")
            engine.write_parquet(f"select * from given where {file_of} = '{name}'", paths[name], "{}")
    return paths


def _insert(source: str, row: Row, columns: Mapping[str, str], where: str, engine: Connection) -> None:
    """Add a row of a source to the table `given`."""
    if strange := [name for name in row if name not in columns]:
        raise LakeError(f"{where}: {source} has no column {few(strange)}; it has {few(columns, 50)}")
    # Given rows are valid unless they say otherwise, because gold reads only valid rows.
    filled = {"is_valid": True, **row} if "is_valid" in columns else row
    if not filled:
        engine.run("insert into given default values")
        return
    tried = ", ".join(f"try_cast({_literal(value)} as {columns[name]})" for name, value in filled.items())
    (stored,) = engine.rows(f"select {tried}")
    for (name, value), found in zip(filled.items(), stored, strict=True):
        # A cast would round it, or drop a part of it; the lake does neither.
        if _comparable(value, columns[name].upper()) != _comparable(found, columns[name].upper()):
            raise LakeError(f"{where}: {name} {value} does not fit {columns[name]}")
    engine.run(f"insert into given ({', '.join(map(_quoted, filled))}) select {tried}")


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
    if value is None or (kind == "BOOLEAN" and isinstance(value, int)):
        return value
    if kind == "BOOLEAN" and str(value).lower() in (*TRUE, *FALSE):
        return str(value).lower() in TRUE
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
