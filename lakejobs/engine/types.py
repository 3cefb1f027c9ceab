"""SQL types of columns; and booleans, dates and decimals: the text they accept, in SQL that DuckDB and Spark share.

A pattern guards every cast: see `sql`.
"""

from __future__ import annotations

from lakejobs.model import BOOKKEEPING, Column, Domain

TRUE = ("true", "t", "yes", "1")
FALSE = ("false", "f", "no", "0")
DAY = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
FIRST_YEAR = "0001"
"""Python, and therefore pandas, has no earlier year."""


def sql_type(kind: str) -> str:
    """The SQL type of a column's type."""
    return {"text": "string", "integer": "bigint", "number": "double"}.get(kind, kind)


def silver_types(domain: Domain) -> dict[str, str]:
    """The columns of a domain's silver and their SQL types."""
    return {name: sql_type(kind) for name, kind in domain.columns.items()} | BOOKKEEPING


def typed(value: str, kind: str) -> str:
    """SQL that turns trimmed text into a boolean, a date or a decimal, and text that does not fit into NULL."""
    if kind == "boolean":
        return f"case when lower({value}) in {TRUE} then true when lower({value}) in {FALSE} then false end"
    if kind == "date":
        fits = f"regexp_like({value}, '{DAY}') and {value} >= '{FIRST_YEAR}'"
        return f"case when {fits} then try_cast({value} as date) end"
    column = Column(kind)
    return f"case when regexp_like({value}, '{decimal_pattern(column)}') then try_cast({value} as {column}) end"


def decimal_pattern(column: Column) -> str:
    """A pattern for plain decimals that fit exactly; leading and trailing zeros are ignored, exponents do not fit."""
    before = column.digits - column.scale
    whole = f"0*[0-9]{{1,{before}}}" if before else "0+"
    if not column.scale:
        return f"^[+-]?{whole}([.]0*)?$"
    return f"^[+-]?({whole}([.][0-9]{{0,{column.scale}}}0*)?|0*[.][0-9]{{1,{column.scale}}}0*)$"
