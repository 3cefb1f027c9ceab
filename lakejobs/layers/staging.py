"""Staging: generated CSV files, as a shop's systems would deliver them, with errors at known rates.

The same batch always gives the same file. Rows are drawn in chunks, each with its own seed, so memory use stays flat
and a batch of 1,000,000 rows begins with the rows of a batch of 100,000, apart from a late or a repeated row.
"""

from __future__ import annotations

import csv
import datetime as dt
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from lakejobs.messages import LakeError
from lakejobs.model import Domain

if TYPE_CHECKING:
    import numpy as np

CHUNK = 50_000
REPEATED = 0.05
"""Share of batches that repeat their first row at the end."""
LATE = 0.05
"""Share of batches with one row from an earlier day."""


def write_batch(
    domain: Domain, batch: dt.datetime, rows: int, handle: TextIO, drawn: Callable[[int], None] = lambda rows: None
) -> int:
    """Write a batch as CSV; returns its number of rows, with a repeated one. Calls `drawn` with the rows so far."""
    import numpy as np

    if domain.fake is None:
        raise LakeError(
            f"{domain.name} has no `fake` function to generate rows with: add one to its Domain, or deliver your "
            "own files"
        )
    seed = [zlib.crc32(domain.name.encode()), int(batch.replace(tzinfo=dt.UTC).timestamp())]
    chance = np.random.default_rng(seed)
    late = int(chance.integers(0, rows)) if chance.random() < LATE else None
    days_late = int(chance.integers(1, 4))
    repeated = chance.random() < REPEATED
    first: list[str] = []
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(domain.columns)
    for start in range(0, rows, CHUNK):
        drawn(start)
        count = min(CHUNK, rows - start)
        columns = domain.fake(np.random.default_rng([*seed, start]), batch, start, count)
        if late is not None and start <= late < start + count:
            _make_late(columns[domain.event_time], late - start, days_late)
        table = list(zip(*(columns[name].tolist() for name in domain.columns), strict=True))
        first = first or list(table[0])
        writer.writerows(table)
    if repeated:
        writer.writerow(first)
    return rows + repeated


def _make_late(timestamps: np.ndarray, row: int, days: int) -> None:
    moment = dt.datetime.fromisoformat(str(timestamps[row])) - dt.timedelta(days=days)
    timestamps[row] = moment.isoformat(timespec="seconds")
