"""What a domain is: a fact table described as data."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

ColumnType = Literal["text", "integer", "number", "timestamp"]
"""text: as delivered. integer: whole, under 10^15. number: finite, under 10^15. timestamp: UTC, microseconds."""


@dataclass(frozen=True)
class Correction:
    """A column that can be computed from others, and is, where what was reported differs.

    The value is replaced where every operand is present and the reported value is NULL or further than
    `tolerance` from the computed one; what was reported stays readable in the column `corrections`. Rules of the
    suite can look at reported − computed as a column of the name `difference`.
    """

    column: str
    operands: tuple[str, ...]
    expression: str
    """SQL over the operands. Of an exact (decimal) type, so that engines agree on the last cent."""
    tolerance: float

    @property
    def difference(self) -> str:
        return f"{self.column}_difference"


@dataclass(frozen=True)
class Domain:
    """One fact table. Grain of its silver rows: one per `key` and UTC date of `event_time`."""

    name: str
    prefix: str
    """Staged files are named `<prefix>_YYYYMMDD_HHMMSS.csv`."""
    columns: Mapping[str, ColumnType]
    key: str
    event_time: str
    rows: int
    """Rows of a generated batch."""
    fake: Callable[[np.random.Generator, dt.datetime, int, int], dict[str, np.ndarray]]
    """`fake(draw, batch, first, count)`: the batch's rows `first` … `first + count - 1` as text, '' where NULL."""
    corrections: tuple[Correction, ...] = ()

    def __post_init__(self) -> None:
        named = [self.key, self.event_time]
        for correction in self.corrections:
            named += [correction.column, *correction.operands]
        if unknown := [name for name in named if name not in self.columns]:
            raise ValueError(f"domain {self.name}: {', '.join(unknown)} not among its columns")
        for name in [self.name, self.prefix, *self.columns]:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"domain {self.name}: {name!r} is not a plain lower-case name")
        if self.columns[self.event_time] != "timestamp":
            raise ValueError(f"domain {self.name}: its event time {self.event_time} is not a timestamp")

    @property
    def rule_columns(self) -> tuple[str, ...]:
        """Columns that expectations may name."""
        return (*self.columns, *(correction.difference for correction in self.corrections))
