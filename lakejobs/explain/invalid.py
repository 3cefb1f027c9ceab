"""The invalid rows of a domain, as they were delivered."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass

from lakejobs.engine.types import silver_types
from lakejobs.explain.trace import bronze_files, partitions, traced
from lakejobs.freshness.runs import Run
from lakejobs.messages import counted
from lakejobs.project import domains


@dataclass(frozen=True)
class Row:
    """An invalid row of silver."""

    date: dt.date
    """The day that its partition is of."""
    errors: str
    """See `validation_errors`."""
    file: str
    """The bronze file, relative to the lake."""
    record: int
    values: list[str]
    """The domain's columns as delivered; '' where it is missing or empty, or if the line is malformed."""
    line: str
    """The text of a malformed line; else ''."""


@dataclass(frozen=True)
class Invalid:
    """The invalid rows of some days."""

    columns: list[str]
    rows: list[Row]
    """By day, in the order of silver."""
    notes: list[str]

    @property
    def by_code(self) -> list[tuple[str, int, dt.date, dt.date]]:
        """Each code: the number of rows, the first and the last day. The most frequent first."""
        found: Counter[str] = Counter()
        days: dict[str, list[dt.date]] = {}
        for row in self.rows:
            for code in row.errors.split("; "):
                found[code] += 1
                days.setdefault(code, []).append(row.date)
        return [(code, rows, min(days[code]), max(days[code])) for code, rows in found.most_common()]


def invalid(run: Run, name: str, since: dt.date | None, code: str | None) -> Invalid:
    """The invalid rows of a domain in silver, of the days from `since` on, which have `code` if that is given."""
    domain, state = domains()[name], run.state(name)
    columns = list(domain.columns)
    with traced(run) as tracer:
        intact = {
            day: path for day, path in partitions(run, name).items() if dt.date.fromisoformat(day) in state.silver
        }
        some = {day: path for day, path in intact.items() if since is None or day >= since.isoformat()}
        silver = tracer.silver(some, silver_types(domain))
        stored = tracer.rows(
            f"select partition_date_, validation_errors, source_file, source_record from {silver} where not is_valid "
            "order by partition_date_, place_"
        )
        if code:
            stored = [row for row in stored if code in row["validation_errors"].split("; ")]
        wanted: dict[str, set[int]] = {}
        for row in stored:
            wanted.setdefault(row["source_file"], set()).add(row["source_record"])
        files = [file for file, _ in bronze_files(run, state, {row["partition_date_"] for row in stored})]
        delivered = tracer.delivered(files, wanted, columns)
    rows = [
        Row(row["partition_date_"], row["validation_errors"], *place, *delivered[place])
        for row in stored
        if (place := (row["source_file"], row["source_record"])) in delivered
    ]
    notes = []
    if lost := len(stored) - len(rows):
        notes.append(
            f"{counted(lost, 'row')} left out: their files changed or are gone; the next run rebuilds these days"
        )
    if due := [date for date in state.stale_dates() if since is None or date >= since]:
        notes.append(f"{counted(len(due), 'day')} of silver due; run luigi --module lakejobs GoldAll first")
    if state.stale_landings():
        notes.append("files wait in staging; run luigi --module lakejobs GoldAll first")
    return Invalid(columns, rows, notes)
