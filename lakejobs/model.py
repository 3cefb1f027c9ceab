"""The values that modules pass on: domains, and what is known about files in bronze, silver and gold."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

TYPES = {
    "text": "as delivered",
    "integer": "whole, below 10^15",
    "number": "finite, below 10^15, a double",
    "decimal(p, s)": "exact, p digits in total, s of them after the decimal point",
    "boolean": "true or false, t or f, yes or no, 1 or 0, in upper or lower case",
    "date": "YYYY-MM-DD",
    "timestamp": "UTC, to the microsecond",
}
DECIMAL = re.compile(r"decimal\( *([0-9]{1,2}) *, *([0-9]{1,2}) *\)")
MOST_DIGITS = 38
"""The most digits of a decimal that Parquet and the engines can hold."""


# The lake's own columns and tables on the way from bronze to gold, and words that SQL reserves.
OURS = """
    file_number landing_date latest_date partition_date malformed is_malformed extra type_errors codes place
    year month day is_valid validation_errors corrections rescued_data source_file source_record processed_at
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
    asof at binary collation concurrently freeze glob ilike isnull notnull pivot_longer pivot_wider positional similar
    tablesample unpack verbose
"""


class Column(str):
    """A column's type and description: `Column("integer", "pieces, never negative")`.

    A `Column` is a string, the name of its type. Without a description, declare a column by that name: `"integer"`.
    """

    description: str
    digits: int
    """Total digits of a decimal; 0 for other types."""
    scale: int
    """A decimal's digits after the decimal point."""

    def __new__(cls, kind: str, description: str = "") -> Column:
        decimal = DECIMAL.fullmatch(kind)
        digits, scale = (int(decimal[1]), int(decimal[2])) if decimal else (0, 0)
        column = super().__new__(cls, f"decimal({digits},{scale})" if decimal else kind)
        column.description, column.digits, column.scale = description, digits, scale
        return column

    @property
    def problem(self) -> str | None:
        """What is wrong with the type; None if it is valid."""
        if self.startswith("decimal(") and self.digits:
            if not 1 <= self.digits <= MOST_DIGITS or self.scale > self.digits:
                return f"{self} needs 1 to {MOST_DIGITS} digits, and no more after the decimal point than in total"
            return None
        if self in TYPES and not self.startswith("decimal"):
            return None
        return f"unknown type {str(self)!r}; expected one of {', '.join(TYPES)}"


@dataclass(frozen=True)
class Correction:
    """A column that is computed from others where the reported value is missing or differs.

    A value is replaced if every operand is present and the reported value is NULL or differs from the computed one by
    more than `tolerance`. The column `corrections` keeps the reported value. Rules can check reported − computed as the
    column named by `difference`.
    """

    column: str
    operands: tuple[str, ...]
    expression: str
    """SQL over the operands, with an exact (decimal) result so that engines agree to the cent."""
    tolerance: float
    holds: str = ""
    """Cheap SQL that is true only where the reported value certainly is the computed one, which saves computing it."""

    @property
    def difference(self) -> str:
        return f"{self.column}_difference"


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One fact table. Its silver rows have the grain: one per `key` and UTC date of `event_time`."""

    name: str
    columns: Mapping[str, str]
    """Types by column name, see `TYPES`; a `Column` is a type with a description."""
    key: str | tuple[str, ...]
    """The column or columns that identify a row. Rows that lack any of them are never merged."""
    event_time: str
    """The timestamp column that decides which day a row belongs to."""
    description: str = ""
    prefix: str = ""
    """Generated files are named `<prefix>_YYYYMMDD_HHMMSS.csv`. Defaults to the domain's name."""
    fake: Callable[[np.random.Generator, dt.datetime, int, int], dict[str, np.ndarray]] | None = None
    """`fake(draw, batch, first, count)` returns the batch's rows `first` … `first + count - 1` as text by column, ''
    for NULL. Without it the domain cannot generate rows."""
    rows: int = 10
    """Rows of a generated batch, by default."""
    corrections: tuple[Correction, ...] = ()
    winner: str = "timestamp"
    """Which of the rows with one key and date is kept: the one with the latest `timestamp`, then from the latest
    delivery; or, if it is `delivery`, the one from the latest delivery, whatever the timestamps."""

    def __post_init__(self) -> None:
        columns = {name: kind if isinstance(kind, Column) else Column(kind) for name, kind in self.columns.items()}
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "prefix", self.prefix or self.name)
        if not isinstance(self.key, str):
            # A key of one column is stored the same way whether it is given as text or as a tuple.
            object.__setattr__(self, "key", self.key[0] if len(self.key) == 1 else tuple(self.key))
        named = [*self.keys, self.event_time]
        for correction in self.corrections:
            named += [correction.column, *correction.operands]
        if unknown := [name for name in named if name not in self.columns]:
            raise ValueError(f"domain {self.name}: no such column: {', '.join(unknown)}")
        if not self.keys or len({*self.keys}) < len(self.keys):
            raise ValueError(f"domain {self.name}: its key needs at least one column, and each only once")
        for name in [self.name, self.prefix, *self.columns]:
            if not re.fullmatch(r"[a-z]([a-z0-9_]*[a-z0-9])?", name):
                raise ValueError(
                    f"domain {self.name}: expected a name of lower-case letters, digits and inner underscores that "
                    f"begins with a letter, got {name!r}"
                )
        for name, column in columns.items():
            if column.problem:
                raise ValueError(f"domain {self.name}, column {name}: {column.problem}")
        taken = {*OURS.split(), *RESERVED.split()} | {
            f"{name}_text" for name, kind in self.columns.items() if kind != "text"
        }
        for correction in self.corrections:
            taken |= {f"{correction.column}_{what}" for what in ("expected", "difference", "is_wrong")}
        if clash := sorted(taken & {self.name, *self.columns}):
            raise ValueError(
                f"domain {self.name}: {', '.join(clash)} cannot name a domain or column: reserved by SQL or the lake"
            )
        if self.winner not in ("timestamp", "delivery"):
            raise ValueError(f"domain {self.name}: winner {self.winner!r}: expected timestamp or delivery")
        if self.columns[self.event_time] != "timestamp":
            raise ValueError(f"domain {self.name}: its event time {self.event_time} is not a timestamp")
        for correction in self.corrections:
            if not columns[correction.column].digits and columns[correction.column] != "number":
                raise ValueError(
                    f"domain {self.name}: {correction.column} has a correction, so it must be a number or a decimal"
                )

    @property
    def keys(self) -> tuple[str, ...]:
        """The columns of the key."""
        return (self.key,) if isinstance(self.key, str) else self.key

    def column(self, name: str) -> Column:
        """A column's type and description."""
        return Column(self.columns[name], getattr(self.columns[name], "description", ""))

    @property
    def declared(self) -> dict[str, Any]:
        """What decides about its rows, by name, as JSON."""
        return {
            "key": list(self.keys),
            "event_time": self.event_time,
            **{f"column {name}": str(kind) for name, kind in self.columns.items()},
            **({"winner": self.winner} if self.winner != "timestamp" else {}),
            **{
                f"correction of {one.column}": f"{one.expression}, where it differs by more than {one.tolerance}"
                for one in self.corrections
            },
        }

    @property
    def rule_columns(self) -> tuple[str, ...]:
        """The columns that rules may name."""
        return (*self.columns, *(correction.difference for correction in self.corrections))


# ------------------------------------------------------------------------------------------------ bronze


@dataclass(frozen=True)
class Contract:
    """How the deliveries of a source are written. The defaults are what is read without a contract."""

    delimiter: str = ","
    quote: str = '"'
    """The character around fields that contain a delimiter or a line end; '' if there is none."""
    encoding: str = ""
    """The name of a codec of Python; '' for UTF-8, or Windows-1252 if the bytes are not UTF-8."""
    decimal: str = "."
    thousands: str = ""
    sheet: str = ""
    """The sheet of a workbook; '' for the first."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Names in headers, in lower case, and the domain's columns that they stand for."""
    absent: tuple[str, ...] = ()
    """Columns of the domain that may be missing."""

    @property
    def marks(self) -> str:
        """The decimal and the thousands mark, if they are not the usual ones; else ''."""
        return self.decimal + self.thousands if (self.decimal, self.thousands) != (".", "") else ""

    @property
    def hash(self) -> str:
        """A hash of what decides about rows; '' if it is as without a contract."""
        decides = replace(self, absent=())
        return digest([CONTRACT_VERSION, asdict(decides)]) if decides != Contract() else ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Contract:
        aliases = tuple((name, column) for name, column in content.get("aliases", ()))
        return cls(**{**content, "aliases": aliases, "absent": tuple(content.get("absent", ()))})


CONTRACT_VERSION = 1
"""Raise it when a change to the code changes the rows of a file that has a contract."""


@dataclass(frozen=True)
class Inspection:
    """What one pass over a CSV file's bytes finds."""

    sha256: str
    encoding: str
    """utf-8, windows-1252 if the bytes are not UTF-8, or what the contract says."""
    newline: str
    """How lines end: LF, CRLF, or mixed."""
    header: tuple[str, ...]
    """Column names as delivered, blanks trimmed, aliases replaced; empty if the file is empty or rejected."""
    lines: int
    """Lines that are not empty, including the header."""
    quoted: bool
    """Whether it contains a quote character."""
    plain: bool
    """Whether the engine may read it; if not, the fallback reader does."""
    rejected: str | None = None
    """Why the file is rejected or held back; None if it is accepted."""
    packed: str = ""
    """gzip, zstd or excel; '' for text. Everything but `sha256` is about the text in it."""
    contract: Contract = Contract()

    @property
    def content(self) -> str:
        """What stands for its content in the identity of silver: the hash of its bytes, and of its contract."""
        return f"{self.sha256}-{self.contract.hash}" if self.contract.hash else self.sha256

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Inspection:
        contract = Contract.from_json(content.get("contract", {}))
        return cls(**{**content, "header": tuple(content["header"]), "contract": contract})


@dataclass(frozen=True)
class Staged:
    """A staged file that has landed."""

    version: str
    """The staged file's version when it landed."""
    landed_as: str
    """The file in bronze, relative to the domain's directory there."""


@dataclass(frozen=True)
class ManifestEntry:
    """A file of a bronze partition."""

    name: str
    bytes: int
    version: str
    inspection: Inspection
    notes: tuple[str, ...] = ()
    """Notes about the file for people."""
    missing: tuple[str, ...] = ()
    """Columns of the domain that the file lacks."""
    records: int = 0
    malformed: int = 0
    """Records with the wrong number of fields or broken quotes."""
    dates: Mapping[str, int] = field(default_factory=dict)
    """Number of records by event date, YYYY-MM-DD."""

    @property
    def identity(self) -> list[Any]:
        """What identifies a bronze file: name, size, content."""
        return [self.name, self.bytes, self.inspection.content]


@dataclass(frozen=True)
class Manifest:
    """What a bronze partition holds, and which staged files landed for it."""

    scan: str
    """Hash of everything that decides how records are counted."""
    staged: Mapping[str, Staged] = field(default_factory=dict)
    files: tuple[ManifestEntry, ...] = ()
    """In order of delivery."""

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        for file in content["files"]:
            own = {name: value for name, value in file["inspection"]["contract"].items() if value != _USUAL[name]}
            file["inspection"]["contract"] = own
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        staged = {name: Staged(**known) for name, known in content["staged"].items()}
        files = (
            {
                **file,
                "inspection": Inspection.from_json(file["inspection"]),
                "notes": tuple(file["notes"]),
                "missing": tuple(file["missing"]),
            }
            for file in content["files"]
        )
        return cls(content["scan"], staged, tuple(ManifestEntry(**file) for file in files))


_USUAL = asdict(Contract())


class Landing(NamedTuple):
    """A summary of a bronze partition."""

    seen: str
    """Hash of the file listing that this describes."""
    dates: Mapping[str, Sequence[Any]]
    """By event date: the number of records, and a hash of the files that hold them."""
    files: int
    bytes: int
    records: int
    malformed: int
    elsewhere: Sequence[str]
    """Where files staged for this date landed before."""
    rejected: Mapping[str, str]
    """Reasons by file."""
    missing: Mapping[str, Sequence[str]]
    """Columns that accepted files lack, by file."""
    notes: Mapping[str, Sequence[str]]
    """Notes for people, by file."""


# ------------------------------------------------------------------------------------------------ silver and gold


BOOKKEEPING = {
    "is_valid": "boolean",
    "validation_errors": "string",
    "corrections": "string",
    "rescued_data": "string",
    "source_file": "string",
    "source_record": "bigint",
    "processed_at": "timestamp",
}
"""Types of the columns that silver adds to a domain's own."""


@dataclass(frozen=True)
class Counts:
    """What became of the records of a silver partition: `records` = `valid` + `invalid` + `duplicates`."""

    records: int = 0
    rows: int = 0
    valid: int = 0
    invalid: int = 0
    duplicates: int = 0
    """Superseded records."""
    corrected: int = 0
    rescued: int = 0
    """Rows whose `rescued_data` is not NULL."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Number of rows by code."""


@dataclass(frozen=True)
class SilverFooter:
    """What a silver partition's footer says, without the lineage."""

    identity: str
    version: int
    rules: str
    """Hash of the critical rules."""
    warnings: str
    """Hash of the other rules."""
    counts: Counts = field(default_factory=Counts)

    def to_json(self) -> dict[str, Any]:
        known = asdict(self)
        counts: dict[str, Any] = known.pop("counts")
        return known | counts

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SilverFooter:
        # Footers of earlier versions have fewer counts.
        counts = Counts(**{name: content[name] for name in Counts.__dataclass_fields__ if name in content})
        return cls(
            content["identity"],
            content.get("version", 0),
            content.get("rules", ""),
            content.get("warnings", ""),
            counts,
        )


@dataclass(frozen=True)
class GoldFooter:
    """What a gold snapshot's footer says, without the lineage."""

    identity: str
    version: int
    sql: str
    """Hash of the table's SQL."""
    engine: str
    """Name and version of the engine that computed it."""
    generated_at: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> GoldFooter:
        return cls(
            content["identity"],
            content.get("version", 0),
            content.get("sql", ""),
            content.get("engine", "unknown"),
            content["generated_at"],
        )


# ------------------------------------------------------------------------------------------------ causes


@dataclass(frozen=True)
class Cause:
    """One difference between what a file was made from and what it should be made from."""

    kind: str
    """The kind of thing that differs: `file`, `rule`, `setting`, `domain`, `sql`, `source`, `version`, `target`, …"""
    name: str
    """Which one."""
    said: str
    """The difference in words."""
    old: str | None = None
    new: str | None = None
    """What was edited, before and after."""
    dates: tuple[str, ...] = ()
    """The dates it concerns, YYYY-MM-DD, where there are several."""
    records: int = 0
    """Records of a file on these dates."""

    def __str__(self) -> str:
        return self.said


# ------------------------------------------------------------------------------------------------ identities


_encode = json.JSONEncoder(separators=(",", ":")).encode


def digest(content: Any) -> str:
    """A short hash of JSON content: equal content, equal hash."""
    return hashlib.sha256(_encode(content).encode()).hexdigest()[:32]
