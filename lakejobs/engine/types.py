"""Booleans, dates and decimals: what text they accept, in SQL that DuckDB and Spark share, and their SQL types.

Every cast stands behind a pattern: see `transform`.
"""

from __future__ import annotations

from lakejobs.model import Column

TRUE = ("true", "t", "yes", "1")
FALSE = ("false", "f", "no", "0")
DAY = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"
FIRST_YEAR = "0001"
"""Python, and so pandas, has no year before."""


def sql_type(kind: str) -> str:
    """The SQL type of a column's type."""
    return {"text": "string", "integer": "bigint", "number": "double"}.get(kind, kind)


def typed(value: str, kind: str) -> str:
    """SQL that makes a boolean, a date or a decimal of trimmed text; NULL of what does not fit."""
    if kind == "boolean":
        return f"case when lower({value}) in {TRUE} then true when lower({value}) in {FALSE} then false end"
    if kind == "date":
        fits = f"regexp_like({value}, '{DAY}') and {value} >= '{FIRST_YEAR}'"
        return f"case when {fits} then try_cast({value} as date) end"
    column = Column(kind)
    return f"case when regexp_like({value}, '{decimal_pattern(column)}') then try_cast({value} as {column}) end"


def decimal_pattern(column: Column) -> str:
    """Plain decimals that fit exactly: zeros in front and behind do not count, an exponent is not accepted."""
    before = column.digits - column.scale
    whole = f"0*[0-9]{{1,{before}}}" if before else "0+"
    if not column.scale:
        return f"^[+-]?{whole}([.]0*)?$"
    return f"^[+-]?({whole}([.][0-9]{{0,{column.scale}}}0*)?|0*[.][0-9]{{1,{column.scale}}}0*)$"
