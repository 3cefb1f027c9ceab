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


# Columns and tables of the lake's own on the way from bronze to gold, and words that SQL reserves.
OURS = """
    file_number landing_date latest_date partition_date malformed is_malformed extra type_errors codes place
    year month day is_valid validation_errors corrections rescued_data source_file processed_at
    delivered loaded typed repeated superseded kept failed sources silver partitions carried computed
"""
RESERVED = """
    all analyse analyze and anti any array as asc asymmetric authorization between both by case cast check collate
    column constraint create cross current_date current_time current_timestamp current_user default deferrable delete
    desc describe distinct do drop else end escape except exists false fetch filter for foreign from full grant group
    having in initially inner insert intersect into is join lambda lateral leading left like limit minus natural not
    null offset on only or order outer overlaps pivot placing primary qualify references returning right select semi
    session_user set show some summarize symmetric table then to trailing true union unique unknown unpivot update
    user using variadic when where window with within
"""


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
            if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name):
                raise ValueError(f"domain {self.name}: {name!r} is not a plain lower-case name")
        taken = {*OURS.split(), *RESERVED.split()} | {
            f"{name}_text" for name, kind in self.columns.items() if kind != "text"
        }
        for correction in self.corrections:
            taken |= {f"{correction.column}_{what}" for what in ("expected", "difference", "is_wrong")}
        if clash := sorted(taken & {self.name, *self.columns}):
            raise ValueError(
                f"domain {self.name}: {', '.join(clash)} cannot be the name of a domain or column, because SQL or the "
                "lake itself uses it"
            )
        if self.columns[self.event_time] != "timestamp":
            raise ValueError(f"domain {self.name}: its event time {self.event_time} is not a timestamp")

    @property
    def rule_columns(self) -> tuple[str, ...]:
        """Columns that expectations may name."""
        return (*self.columns, *(correction.difference for correction in self.corrections))
