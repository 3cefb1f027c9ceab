"""The lake's files as relations of SQL: for a query that somebody types, and for a file of views that other tools open.

Each function returns a query over Parquet files, given by paths or patterns (see `pattern`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from lakejobs.engine import CsvFile, QueryError
from lakejobs.engine.duckdb import Connection, plain_errors
from lakejobs.engine.local import GENERATED_AT
from lakejobs.engine.sql import text
from lakejobs.messages import LakeError

FILE = "file_"
NEWEST = "newest_"
"""Columns that name the file of a row, and the newest one, until they are left out."""
READABLE_SINCE = "v1.0.0"
"""DuckDB of this and every later version reads the file of views; its own default is a format that only 2.0 reads."""
QUERIES = ("SELECT", "MULTI")
"""Kinds of statements that may be a query: a pivot becomes several statements."""
LINE = re.compile(r"^LINE (\d+)", re.MULTILINE)
CATALOGUE = re.compile(r"\b(show|information_schema|duckdb_\w+|pg_catalog|sqlite_master)\b", re.IGNORECASE)
ADVICE = re.compile(r"\.?\s*Please try installing and loading the (\w+) extension.*", re.DOTALL)


def pattern(path: str) -> str:
    """A pattern that matches this path alone: in DuckDB's paths, *, ? and [ stand for other characters."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def nothing(columns: Mapping[str, str]) -> str:
    """No rows of these columns, given by their types."""
    return f"select {', '.join(f'cast(null as {kind}) as {_quoted(name)}' for name, kind in columns.items())} limit 0"


def silver(columns: Mapping[str, str], files: Sequence[str], *, only_valid: bool = False) -> str:
    """The rows of silver partitions. One that was written before a column was added, and then withheld, lacks it."""
    rows = f"select {_names(columns)} from ({_with_columns(columns, parquet(files))})" if files else nothing(columns)
    return f"select * from ({rows}) where is_valid" if only_valid else rows


def parquet_or_nothing(columns: Mapping[str, str], files: Sequence[str]) -> str:
    """All rows of Parquet files with these columns; none if there is no file."""
    return f"select {_names(columns)} from {parquet(files)}" if files else nothing(columns)


def newest(columns: Mapping[str, str], snapshots: str) -> str:
    """The rows of the snapshot whose name sorts last, whenever this is read. `columns`: those it has now."""
    # The left side lists the files first. If the right one did, a snapshot that appears in between would be the newest
    # and not be read. Only names are read from the left side, and only one file from the right one.
    names = f"(select max(filename) as {NEWEST} from read_blob({text(snapshots)}))"
    found = f"{names} join {parquet([snapshots], named=True)} on {FILE} = {NEWEST}"
    rows = f"(select * exclude ({FILE}, {NEWEST}) from {found})"
    return f"select {_names(columns)} from ({_with_columns(columns, rows)})"


def history(snapshots: Sequence[str], moments: Mapping[str, str] | None = None) -> str:
    """The rows of several snapshots, after the column `snapshot`, the time in the name of their file.

    `moments`: that part of the name by path, for copies that have other names.
    """
    moment = f"regexp_extract({FILE}, '_([0-9_]{{22}})[.]parquet$', 1)"
    if moments:
        moment = f"map {{{', '.join(f'{text(path)}: {text(name)}' for path, name in moments.items())}}}[{FILE}]"
    columns = f"strptime({moment}, '%Y%m%d_%H%M%S_%f') as snapshot, * exclude ({FILE})"
    # If the table has a column of that name too, the outer query calls it snapshot_1.
    return f"select * from (select {columns} from {parquet(snapshots, named=True)})"


def parquet(files: Sequence[str], *, named: bool = False) -> str:
    """All rows of Parquet files, in parentheses. `named` adds the path of each row's file."""
    options = "hive_partitioning = false, union_by_name = true" + f", filename = '{FILE}'" * named
    return f"(select * from read_parquet([{', '.join(map(text, files))}], {options}))"


def _with_columns(columns: Mapping[str, str], rows: str) -> str:
    return f"({nothing(columns)}) union all by name {rows}"


def _names(columns: Mapping[str, str]) -> str:
    return ", ".join(map(_quoted, columns))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def planned(connection: Connection, statement: str, sources: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The columns that a gold table will have, from its SQL and the columns of its sources. Raises QueryError."""
    connection.run("create schema planned")
    try:
        connection.run("set schema = 'planned'")
        for name, columns in sources.items():
            connection.run(f"create view {name} as {nothing(columns)}")
        return {**connection.columns(f"(\n{statement}\n)"), GENERATED_AT: "timestamp"}
    finally:
        connection.run("set schema = 'main'")
        connection.run("drop schema planned cascade")


def write(path: str, relations: Mapping[tuple[str, str], Callable[[], str]], connection: Connection) -> None:
    """Write a file of views to a local path: queries by schema and name.

    Leaves out what cannot be read, such as a table whose SQL is broken; the task that builds it says why.
    """
    connection.run(f"attach {text(path)} as views (storage_version {text(READABLE_SINCE)})")
    for schema in dict.fromkeys(schema for schema, _ in relations):
        connection.run(f"create schema views.{_quoted(schema)}")
    for (schema, name), query in relations.items():
        with contextlib.suppress(QueryError, LakeError):
            connection.run(f"create view views.{_quoted(schema)}.{_quoted(name)} as {query()}")
    connection.run("detach views")


# ------------------------------------------------------------------------------------------------ queries


class Reader(Connection):
    """A connection for queries that somebody types. It reads only, and loads no extension."""

    def __enter__(self) -> Reader:
        return self

    def __init__(self, spill_directory: str, memory_limit: str) -> None:
        super().__init__(spill_directory, memory_limit)
        # Without these, DuckDB fetches extensions from the network, and takes Python's variables for tables.
        for setting in ("autoinstall_known_extensions", "autoload_known_extensions", "python_enable_replacements"):
            self.run(f"set {setting} = false")
        self.run("reset disabled_optimizers")

    def view(self, schema: str, name: str, query: str) -> None:
        """Make a query readable under a name."""
        self.run(f"create schema if not exists {_quoted(schema)}")
        self.run(f"create view {_quoted(schema)}.{_quoted(name)} as {query}")

    def load_bronze(self, name: str, files: Sequence[CsvFile], columns: Sequence[str]) -> None:
        """Make the records of CSV files readable as `bronze.<name>`, as text."""
        texts = ", ".join(columns)
        rows = f"select file_number, source_record, landing_date, malformed, extra, {texts} from delivered"
        self.run("create schema if not exists bronze")
        self.load_csv("read_", files, columns, rows)
        self.set_list("names_", {file.number: file.name for file in files})
        # A table, because the next domain's records have other numbers.
        self.run(
            f"create table bronze.{name} as select {texts}, malformed, extra, "
            "cast(getvariable('names_')[file_number + 1] as varchar) as source_file, source_record, landing_date "
            "from read_"
        )
        self.run("drop view read_; drop table read__")

    def answer(self, query: str, most: int | None = None) -> Iterator[tuple[str | None, ...]]:
        """The rows of a query as text, at most some of them. Raises QueryError."""
        rows = f"(select * from {_subquery(query)}{'' if most is None else f' limit {most}'})"
        return self._answer(f"select cast(columns(*) as varchar) from {rows}")

    def answer_json(self, query: str) -> Iterator[str]:
        """The rows of a query as JSON objects. Raises QueryError."""
        rows = self._answer(f"select cast(to_json(row_) as varchar) from {_subquery(query)} as row_")
        return (str(row) for (row,) in rows)

    def count(self, query: str) -> int:
        """The number of a query's rows."""
        ((count,),) = self.rows(f"select count(*) from {_subquery(query)}")
        return int(count)

    def _answer(self, statement: str) -> Iterator[tuple[str | None, ...]]:
        with plain_errors():
            found = self._connection.execute(statement)
        while True:
            with plain_errors():
                rows = found.fetchmany(10_000)
            yield from rows
            if not rows:
                return

    def answer_columns(self, query: str) -> dict[str, str]:
        """Names and types of a query's columns. Raises QueryError unless it is one query, which only reads."""
        with plain_errors():
            # With a line before it, as whenever it is run, see `in_words`.
            statements = self._connection.extract_statements(f"\n{query}")
        if len(statements) != 1:
            raise QueryError(f"expected one query, got {len(statements)}")
        kind = statements[0].type.name
        if kind not in QUERIES:
            raise QueryError(
                "the lake can only be read: expected a query (select, from, with, values, pivot, describe, summarize, "
                f"show), got {kind.replace('_', ' ')}"
            )
        return self.columns(_subquery(query))


def in_words(error: QueryError) -> str:
    """The message of an error in a query that a `Reader` was given."""
    said = ADVICE.sub(r"; extensions such as \1 are not loaded here, nor is anything read from the network", str(error))
    return LINE.sub(lambda found: f"LINE {max(1, int(found[1]) - 1)}", said)


def unknown_table(error: QueryError) -> str | None:
    """The table that a query names and that does not exist, if this is what the error says."""
    found = re.search(r'Table with name "?([^"\s]+)"? does not exist', str(error))
    return found[1] if found else None


def asks_what_there_is(query: str) -> bool:
    """Whether a query may read the catalogue of tables."""
    return CATALOGUE.search(query) is not None


def _subquery(query: str) -> str:
    """A query in parentheses, where SQL allows nothing that writes: on its own, even a `with` may hold a `copy`."""
    import duckdb

    encoded = query.encode()
    end = len(encoded)
    for start, _ in reversed(duckdb.tokenize(query)):  # positions in bytes
        if not encoded.startswith((b";", b"--", b"/*"), start):
            break
        end = start
    return f"(\n{encoded[:end].decode()}\n)"
