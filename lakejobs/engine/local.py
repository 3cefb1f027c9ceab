"""Typed records: bronze files, read into an engine once.

Bronze reads what has landed to count it, and silver needs the same records a moment later. So what bronze has read is
kept, one load a process, and silver goes on with it if it holds the very files that it needs.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import datetime as dt
from collections.abc import Sequence
from typing import Any

from lakejobs import lake as storage
from lakejobs import transform
from lakejobs.engine import CsvFile, DuckDB
from lakejobs.lineage import DomainState
from lakejobs.project import domains


class Loaded:
    """The records of bronze files as the table `loaded` of an engine: `transform.typed_rows` and `row_number_`."""

    _kept: Loaded | None = None

    def __init__(self, state: DomainState, files: Sequence[CsvFile], dates: tuple[dt.date, dt.date] | None) -> None:
        """Read files, or of them only what belongs to the first … the last of two dates."""
        # What an earlier task has left is not worth the memory that this one may need.
        Loaded.forget()
        domain = domains()[state.domain]
        self._by_content = _contents(files)
        self._typed = transform.typed_rows(domain)
        query = self._typed
        if dates:
            between = f"partition_date between date '{dates[0]}' and date '{dates[1]}'"
            query = f"select * from ({query}) as rows where {between}"
        with contextlib.ExitStack() as stack:
            self.engine = stack.enter_context(DuckDB(stack.enter_context(storage.scratch(state.lake, state.domain))))
            self.engine.load_csv("loaded", files, list(domain.columns), query)
            self._resources = stack.pop_all()

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._resources.__exit__(*exc)

    def keep(self) -> None:
        """Leave it to the next who asks for its files."""
        Loaded._kept = self

    @classmethod
    def forget(cls) -> None:
        if cls._kept:
            cls._kept._resources.close()
            cls._kept = None

    @classmethod
    def of(cls, state: DomainState, files: Sequence[CsvFile], dates: tuple[dt.date, dt.date]) -> Loaded:
        """The records of files: those that were kept, with all their dates and perhaps more files, or read now."""
        kept = cls._kept
        if kept and kept._holds(state, files):
            cls._kept = None
            return kept
        return cls(state, files, dates)

    def _holds(self, state: DomainState, files: Sequence[CsvFile]) -> bool:
        if self._typed != transform.typed_rows(domains()[state.domain]):
            return False
        if not self._by_content.keys() >= _contents(files).keys():
            return False
        # Of two duplicates the later file's is kept, so the order has to be that which the files have now.
        numbers = self.numbers(files)
        return numbers == sorted(numbers)

    def numbers(self, files: Sequence[CsvFile]) -> list[int]:
        """The numbers that the rows of these files have here."""
        return [self._by_content[content] for content in _contents(files)]


def _contents(files: Sequence[CsvFile]) -> dict[CsvFile, int]:
    """Files as told apart by all but their number."""
    return {dataclasses.replace(file, number=0): file.number for file in files}


atexit.register(Loaded.forget)
