"""Logs of a few rows each, as Parquet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lakejobs.engine.duckdb import plain_errors
from lakejobs.engine.sql import text


def write(path: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a local path. `columns`: SQL types by name."""
    import duckdb

    types = ", ".join(f"{name} {kind}" for name, kind in columns.items())
    places = ", ".join("?" for _ in columns)
    with plain_errors(), duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(f"create table log ({types})")
        connection.executemany(f"insert into log values ({places})", [[row[name] for name in columns] for row in rows])
        connection.execute(f"copy log to {text(path)} (format parquet)")


def read(paths: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of logs on the local disk, file by file."""
    import duckdb

    if not paths:
        return []
    listed = ", ".join(map(text, paths))
    with plain_errors(), duckdb.connect(config={"threads": 1}) as connection:
        found = connection.execute(
            f"select * from read_parquet([{listed}], union_by_name = true, hive_partitioning = false)"
        )
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
