"""DuckDB in this process: a connection that can read delivered CSV files.

Every statement it is given uses SQL that DuckDB and Spark share; the functions that they name differently
(`regexp_like`, `btrim`, `json_text`, `json_member`) are defined here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import operator
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from lakejobs.engine import CsvFile, NotPlainError, QueryError, records, unpacking
from lakejobs.engine.sql import text
from lakejobs.messages import LakeError
from lakejobs.storage.local import reading, write

if TYPE_CHECKING:
    import pyarrow as pa

LONGEST_LINE = 2_000_000
"""The longest line, in bytes, that DuckDB reads; the fallback reader takes files with longer ones."""
# DuckDB treats *, ? and [ in a path as a pattern.
PLAIN_PATH = re.compile(r"[^*?\[\]]+")
FILES_AT_ONCE = 2_000
"""Files that one statement reads: DuckDB holds more than 60 kB of memory for each of them until it ends."""
CAREFUL_CHUNK = 50_000
CAREFUL_TEXT = 32 << 20
"""The most records, and the characters of text after which no more are added, that the fallback reader passes on at
once."""
_serial = itertools.count()
Delivered: TypeAlias = "tuple[CsvFile, int, tuple[str | None, list[str | None]] | None, str | None]"
"""A record: its file and number there, (extra, values) or None if it is malformed, and its raw text if it is."""


@functools.cache
def name_and_version() -> str:
    """`DuckDB 2.0.0`. Does not import DuckDB, because runs with nothing to do ask too."""
    return f"DuckDB {importlib.metadata.version('duckdb')}"


class Connection:
    """A DuckDB connection; spills to a local directory above `memory_limit`. Tables live as long as it does."""

    def __init__(self, spill_directory: str, memory_limit: str, threads: int | None = None) -> None:
        """`threads`: None for one for each core."""
        with _interrupts_wait():
            import duckdb

        try:
            self._connection = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": spill_directory})
        except duckdb.Error as error:
            raise LakeError(
                f"[lake] memory_limit={memory_limit}: expected a size such as 4GB or 50%: {error}"
            ) from error
        if threads:
            self.run(f"set threads = {threads}")
        self._directory = spill_directory
        self.run("set timezone = 'UTC'")
        # This optimizer writes `not null` into the schema of Parquet files whose rows happen to have no NULL, and
        # readers do not accept files with different schemas as one table.
        self.run("set disabled_optimizers = 'statistics_propagation'")
        self.run("create macro regexp_like(value, pattern) as regexp_matches(value, pattern)")
        self.run("create macro btrim(value, characters) as trim(value, characters)")
        self.run("create macro json_text(value) as cast(to_json(value) as varchar)")
        self.run("create macro json_member(value, name) as json_extract_string(value, '$.\"' || name || '\"')")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release memory and temporary files."""
        self._connection.close()

    def run(self, statement: str) -> None:
        """Run a statement that returns no rows."""
        with plain_errors():
            self._connection.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A small result as Python values."""
        with plain_errors():
            return self._connection.execute(query).fetchall()

    def columns(self, rows: str) -> dict[str, str]:
        """Names and types of the columns of a relation, or of a query in parentheses."""
        return {name: kind for name, kind, *_ in self.rows(f"describe select * from {rows}")}

    def chunks(self, query: str, size: int) -> Iterator[pa.Table]:
        """A large result as Arrow tables of about `size` rows; none if it is empty."""
        from concurrent.futures import ThreadPoolExecutor

        # Stay one chunk ahead: the engine computes the next one while the caller works on the last.
        found = self._chunks(query, size)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, found, None)
            while (chunk := coming.result()) is not None:
                coming = pool.submit(next, found, None)
                yield chunk

    def _chunks(self, query: str, size: int) -> Iterator[pa.Table]:
        import pyarrow as pa

        # The reader's batches are smaller than requested: one row group each.
        waiting: list[pa.RecordBatch] = []
        with plain_errors():
            for batch in self._connection.sql(query).to_arrow_reader(size):
                waiting.append(batch)
                if sum(len(one) for one in waiting) >= size:
                    yield pa.Table.from_batches(waiting)
                    waiting = []
        if any(len(batch) for batch in waiting):
            yield pa.Table.from_batches(waiting)

    def arrow(self, query: str) -> pa.Table:
        """A whole result as one Arrow table."""
        with plain_errors():
            found: pa.Table = self._connection.sql(query).to_arrow_table()
        return found

    def register(self, name: str, data: pa.Table) -> None:
        """Make an Arrow table readable under a name."""
        with plain_errors():
            self._connection.register(name, data)

    def set_list(self, name: str, values: Mapping[int, Any]) -> None:
        """Make values by number readable as `getvariable(name)[number + 1]`; in SQL, lists begin with 1."""
        listed = [values.get(number) for number in range(max(values, default=-1) + 1)]
        with plain_errors():
            self._connection.execute(f"set variable {name} = ?", [listed])

    def set_bits(self, name: str, bits: str) -> None:
        """Make zeros and ones readable as `get_bit(getvariable(name), position)`."""
        with plain_errors():
            self._connection.execute(f"set variable {name} = cast(? as bit)", [bits])

    def read_parquet(self, name: str, paths: Sequence[str], *, numbered: bool = False, by_name: bool = False) -> None:
        """Make Parquet files readable under a name.

        `numbered` adds `filename`, and `file_row_number` from 0 on. `by_name`: files may lack columns of others.
        """
        options = "hive_partitioning = false" + (", filename = true, file_row_number = true" if numbered else "")
        options += ", union_by_name = true" if by_name else ""
        self.run(f"create or replace temp view {name} as select * from read_parquet([{_list(paths)}], {options})")

    def write_parquet(self, query: str, path: str, footer: str) -> int:
        """Write a query's rows to one Parquet file, with `footer` as its `lakejobs` entry; returns their number."""
        ((written,),) = self.rows(
            f"copy ({query}) to {text(path)} (format parquet, kv_metadata {{lakejobs: {text(footer)}}})"
        )
        return int(written)

    def in_one_thread(self) -> None:
        """From here on, run each statement in the thread that calls it."""
        self.run("set threads = 1")

    def another(self) -> Connection:
        """A connection for another thread, to the same tables except temporary and registered ones."""
        sibling = copy.copy(self)
        sibling._connection = self._connection.cursor()
        return sibling

    # -------------------------------------------------------------------------------------------- CSV

    def load_csv(self, table: str, files: Sequence[CsvFile], columns: Sequence[str], query: str) -> bool:
        """Create `table` from the result of `query` over the records of CSV files, which it reads as `delivered`.

        `delivered` has one row per record: `file_number`, `source_record`, `landing_date` and `latest_date`; then, as
        text, `malformed`, the raw text of a malformed line (otherwise NULL); `extra`, the values of unknown columns as
        the members of a JSON object (NULL if there are none); `marks_`, see `Contract.marks`; and the domain's
        `columns` as delivered, matched by header name, NULL if missing.

        `query` passes on `file_number` and `source_record`, and drops no row. `table` is a view: the row ids of
        `<table>_` are its column `row_number_`. Returns whether its rows are in the order of files and records.
        """
        plain, careful = _by_reader(files)
        plain, careful = [self._unpacked(group) for group in plain], self._unpacked(careful)
        self._create(f"{table}_", columns, query)
        places = Places()
        in_order = True
        for group in plain:
            for begin in range(0, len(group), FILES_AT_ONCE):
                some = group[begin : begin + FILES_AT_ONCE]
                in_order &= not self._load_plain(f"{table}_", some, columns, query, places)
        # Planning the query takes longer than reading a small file, so many of these share an insert.
        found = itertools.chain.from_iterable(_read_carefully(file, columns) for file in careful)
        for chunk in _in_chunks(found):
            self._insert(f"{table}_", chunk, columns, query)
        loaded = [file.number for group in (*plain, careful) for file in group]
        self.set_list("first_", places.first)
        number = "t.rowid - getvariable('first_')[t.file_number + 1]"
        if places.gaps:
            self.set_list("gaps_", places.gaps)
            number += (
                " + coalesce(len(list_filter(getvariable('gaps_')[t.file_number + 1], lambda g: g <= t.rowid)), 0)"
            )
        self.run(
            f"create temp view {table} as select t.rowid as row_number_, "
            f"t.* replace (coalesce(t.source_record, {number}) as source_record) from {table}_ as t"
        )
        return in_order and loaded == sorted(loaded)

    def load_rows(self, table: str, rows: Iterable[pa.Table], columns: Sequence[str], query: str) -> None:
        """Create `table` from rows that `load_csv` made, perhaps in another process. The order of rows stays."""
        self._create(f"{table}_", columns, query)
        for some in rows:
            self.register("rows_", some)
            self.run(f"insert into {table}_ select * from rows_")
            self._connection.unregister("rows_")
        self.run(f"create temp view {table} as select rowid as row_number_, * from {table}_")

    def sort(self, table: str, columns: str) -> None:
        """Sort the rows of a table that `load_rows` made."""
        self.run(f"create temp table unsorted_ as select * from {table}_ order by {columns}")
        self.run(f"drop view {table}; drop table {table}_; alter table unsorted_ rename to {table}_")
        self.run(f"create temp view {table} as select rowid as row_number_, * from {table}_")

    def _unpacked(self, files: Sequence[CsvFile]) -> list[CsvFile]:
        """Files that are UTF-8 text: copies, in the spill directory, of those that are not."""
        found = []
        for file in files:
            inspection = file.inspection
            if unpacking.is_needed(inspection.packed, inspection.contract):
                path = f"{self._directory}/unpacked_{next(_serial)}.csv"
                with reading(file.path) as handle:
                    try:
                        write(path, unpacking.chunks(handle, inspection.packed, inspection.contract))
                    except unpacking.DamagedError as error:
                        raise LakeError(f"{file.name or file.path} {error}; it changed while it was read") from None
                found.append(dataclasses.replace(file, path=path))
            else:
                found.append(file)
        return found

    def _create(self, table: str, columns: Sequence[str], query: str) -> None:
        """Create an empty table for what `query` makes of `delivered`."""
        # In SQL, because making it in Arrow would import pandas.
        fixed = (
            "0 as file_number, cast(0 as bigint) as source_record, current_date as landing_date, "
            "current_date as latest_date"
        )
        texts = ", ".join(f"cast(null as varchar) as {name}" for name in ("malformed", "extra", "marks_", *columns))
        self.run(f"create temp view delivered as select {fixed}, {texts} limit 0")
        self.run(f"create temp table {table} as {query}")
        self.run("drop view delivered")

    def _load_plain(self, table: str, files: list[CsvFile], columns: Sequence[str], query: str, places: Places) -> int:
        """Read files with the same header and line ends at once, file by file; malformed lines follow after all others.

        Returns the number of malformed lines.
        """
        import duckdb

        header = files[0].inspection.header
        newline = {"LF": r"\n", "CRLF": r"\r\n"}[files[0].inspection.newline]
        contract = files[0].inspection.contract
        by_name, others = records.match(header, columns)
        extra = "cast(null as varchar)"
        if others:
            members = ", ".join(
                f"case when btrim(c{index}, ' \t') <> '' then {text(json.dumps(name, ensure_ascii=False) + ': ')} "
                f"|| json_text(c{index}) end"
                for name, index in others.items()
            )
            extra = f"nullif(concat_ws(', ', {members}), '')"
        # Looked up by position in a list, because a join would lose the order of lines.
        self.run(f"create type file_names as enum ({_list(file.path for file in files)})")
        position = "enum_code(cast(filename as file_names)) + 1"
        landing = ", ".join(f"date '{file.landing_date}'" for file in files)
        latest = ", ".join(f"date '{file.latest_date}'" for file in files)
        picked = ", ".join(
            f"{f'c{by_name[name]}' if name in by_name else 'cast(null as varchar)'} as {name}" for name in columns
        )
        types = ", ".join(f"c{index}: 'varchar'" for index in range(len(header)))
        self.run("drop table if exists reject_errors; drop table if exists reject_scans")
        numbers = ", ".join(str(file.number) for file in files)
        ((start,),) = self.rows(f"select count(*) from {table}")
        self.run(
            f"create temp view delivered as select [{numbers}][{position}] as file_number, "
            f"cast(null as bigint) as source_record, "
            f"[{landing}][{position}] as landing_date, [{latest}][{position}] as latest_date, "
            f"cast(null as varchar) as malformed, {extra} as extra, {text(contract.marks)} as marks_, {picked} "
            f"from read_csv([{_list(file.path for file in files)}], auto_detect = false, header = true, "
            f"columns = {{{types}}}, "
            f"delim = {text(contract.delimiter)}, quote = {text(contract.quote)}, escape = {text(contract.quote)}, "
            f"new_line = '{newline}', filename = true, "
            f"max_line_size = {LONGEST_LINE}, store_rejects = true)"
        )
        try:
            self.run(f"insert into {table} {query}")
        except QueryError as error:
            if isinstance(error.__cause__, duckdb.InvalidInputException):
                raise NotPlainError(str(error)) from error
            raise
        rejects = self.rows(
            "select distinct s.file_path, e.line_byte_position "
            "from reject_errors e join reject_scans s using (scan_id, file_id) order by 1, 2"
        )
        self.run("drop view delivered; drop type file_names")
        by_path = {file.path: file for file in files}
        lines: list[Delivered] = [(by_path[path], record, None, raw) for path, record, raw in _rejected_lines(rejects)]
        places.add(
            self.rows(
                f"select file_number, min(rowid), max(rowid), count(*) from {table} where rowid >= {start} group by all"
            ),
            lines,
        )
        for chunk in _in_chunks(lines):
            self._insert(table, chunk, columns, query)
        return len(lines)

    def _insert(self, table: str, rows: list[Delivered], columns: Sequence[str], query: str) -> None:
        self.register("delivered", _delivered(rows, columns))
        self.run(f"insert into {table} {query}")
        self._connection.unregister("delivered")


def load_order(files: Iterable[CsvFile]) -> list[CsvFile]:
    """Files in the order in which `load_csv` loads their records, apart from malformed lines."""
    plain, careful = _by_reader(files)
    return [file for group in (*plain, careful) for file in group]


def _by_reader(files: Iterable[CsvFile]) -> tuple[list[list[CsvFile]], list[CsvFile]]:
    """The files that the engine reads, in groups alike in header, line ends and contract, and those it cannot read."""
    plain: dict[tuple[Any, ...], list[CsvFile]] = {}
    careful = []
    for file in files:
        if file.inspection.plain and PLAIN_PATH.fullmatch(file.path):
            plain.setdefault((file.inspection.header, file.inspection.newline, file.inspection.contract), []).append(
                file
            )
        else:
            careful.append(file)
    return list(plain.values()), careful


class Places:
    """Where the rows of plain files are in a table, to number their records: the engine does not number them."""

    def __init__(self) -> None:
        self.first: dict[int, int] = {}
        """By file number: the row id of the first record, minus one."""
        self.gaps: dict[int, list[int]] = {}
        """By file number, for each malformed line the row id of the record after it. These lines have other places."""

    def add(self, found: Iterable[tuple[int, int, int, int]], malformed: Sequence[Delivered]) -> None:
        """`found`: by file, its number, the first and the last row id, and the number of rows."""
        lines: dict[int, list[int]] = {}
        for file, record, _, _ in malformed:
            lines.setdefault(file.number, []).append(record)
        for number, first, last, rows in found:
            if last - first + 1 != rows:
                raise NotPlainError(f"the records of file {number} are not next to each other")
            self.first[number] = first - 1
            if number in lines:
                self.gaps[number] = [first + record - 1 - skipped for skipped, record in enumerate(lines[number])]


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait: interrupted while it is imported, DuckDB aborts the process when it is imported again."""
    handler = signal.getsignal(signal.SIGINT)
    if "duckdb" in sys.modules or handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    for number in waiting[:1]:
        signal.raise_signal(number)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Raise DuckDB's errors as the lake's own."""
    import duckdb

    try:
        yield
    except Exception as error:
        # How DuckDB reports Ctrl-C: in a query, and while it looks at an Arrow table.
        if str(error).startswith("Query interrupted") or "failed: KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from error
        if reason := _of_the_disk(str(error)):
            raise LakeError(reason) from error
        if isinstance(error, duckdb.Error):
            raise QueryError(str(error).strip()) from error
        raise


def _of_the_disk(message: str) -> str | None:
    """The message for a DuckDB error that comes from the operating system; None for all other errors."""
    if "IO Error: " not in message and '"IO"' not in message.replace("\\", ""):
        return None
    file = re.search(r'"([^"]*/[^"]*)"(?:: ([^"{}\n]+))?', message.replace(r"\"", '"'))
    if not file:
        return f"cannot read or write: {message.splitlines()[0]}"
    return f"cannot read or write {file[1]}: {file[2] or 'it cannot be opened'}"


def _list(values: Iterable[str]) -> str:
    return ", ".join(text(value) for value in values)


def _rejected_lines(rejects: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """The lines that DuckDB rejected: path, number of the record, text. `rejects`: path and position (from 1) of their
    first bytes.

    No field of these files contains a line end.
    """
    for path, lines in itertools.groupby(rejects, key=operator.itemgetter(0)):
        with reading(path) as handle:
            seen = record = 0
            for _, position in lines:
                handle.seek(seen)
                record += records.count_lines(handle, position - 1 - seen)
                handle.seek(position - 1)
                line = handle.readline()
                while line and not line.strip(b"\r\n"):
                    line = handle.readline()
                seen = handle.tell()
                yield path, record, line.rstrip(b"\r\n").decode("utf-8", "replace")
                record += 1


def _read_carefully(file: CsvFile, columns: Sequence[str]) -> Iterator[Delivered]:
    """The records of a file that only `records.read` can read."""
    as_delivered = delivered_as(file, columns)
    with reading(file.path) as handle:
        for number, (fields, raw) in enumerate(records.read(handle, file.inspection), 1):
            yield as_delivered(number, fields, raw)


def delivered_as(file: CsvFile, columns: Sequence[str]) -> Callable[[int, Sequence[str] | None, str], Delivered]:
    """What makes a `Delivered` of a record's number, fields and raw text."""
    by_name, others = records.match(file.inspection.header, columns)
    indexes = [by_name.get(name) for name in columns]

    def delivered(number: int, fields: Sequence[str] | None, raw: str) -> Delivered:
        if fields is None:
            return file, number, None, raw
        values = [None if index is None else fields[index] for index in indexes]
        extra = ", ".join(
            records.json_member(name, fields[index]) for name, index in others.items() if fields[index].strip(" \t")
        )
        return file, number, (extra or None, values), None

    return delivered


def _in_chunks(rows: Iterable[Delivered]) -> Iterator[list[Delivered]]:
    """Records of any number of files, as many at once as memory allows."""
    chunk: list[Delivered] = []
    size = 0
    for row in rows:
        _, _, content, raw = row
        extra, values = content or (raw, [])
        chunk.append(row)
        size += len(extra or "") + sum(len(value) for value in values if value)
        if len(chunk) >= CAREFUL_CHUNK or size >= CAREFUL_TEXT:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _delivered(rows: list[Delivered], columns: Sequence[str]) -> pa.Table:
    """Records as the relation `delivered`."""
    import pyarrow as pa

    nothing = [None] * len(columns)
    values = [content[1] if content else nothing for _, _, content, _ in rows]
    data: dict[str, pa.Array[Any]] = {
        "file_number": pa.array([file.number for file, _, _, _ in rows], pa.int32()),
        "source_record": pa.array([record for _, record, _, _ in rows], pa.int64()),
        "landing_date": pa.array([file.landing_date for file, _, _, _ in rows], pa.date32()),
        "latest_date": pa.array([file.latest_date for file, _, _, _ in rows], pa.date32()),
        "malformed": pa.array([raw for _, _, _, raw in rows], pa.string()),
        "extra": pa.array([content[0] if content else None for _, _, content, _ in rows], pa.string()),
        "marks_": pa.array([file.inspection.contract.marks for file, _, _, _ in rows], pa.string()),
    }
    for index, name in enumerate(columns):
        data[name] = pa.array([row[index] or None for row in values], pa.string())
    return pa.table(data)
