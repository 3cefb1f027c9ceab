"""What Great Expectations sees of dates and decimals, which pandas has no type of its own for.

A date is the moment it begins, as a timestamp is: so both are compared with a day or a moment that a suite names, and
in NumPy's time. A decimal is a number where it is compared with a suite's numbers, with other numbers or with itself
over the whole table, because those are doubles: 1.10 is 1.1. Wherever its digits count, it is what pandas reads from
silver's file, a `decimal.Decimal`: two decimals are equal where all of their digits are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lakejobs.model import Domain

if TYPE_CHECKING:
    import pandas as pd

# Expectations to which a value is more than a quantity: equal to others or not, there or not, text, of a type.
EXACT = {
    "expect_column_values_to_be_unique",
    "expect_compound_columns_to_be_unique",
    "expect_column_values_to_be_null",
    "expect_column_values_to_not_be_null",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_decreasing",
    "expect_column_value_lengths_to_be_between",
    "expect_column_value_lengths_to_equal",
    "expect_column_values_to_match_regex",
    "expect_column_values_to_match_regex_list",
    "expect_column_values_to_not_match_regex",
    "expect_column_values_to_not_match_regex_list",
}
# So are these to decimals, and not where one of the columns is of doubles.
COMPARING = {
    "expect_column_pair_values_to_be_equal",
    "expect_column_pair_values_a_to_be_greater_than_b",
    "expect_multicolumn_values_to_be_equal",
    "expect_select_column_values_to_be_unique_within_record",
}
QUANTITIES = {"value_set", "min_value", "max_value"}


class Rule(Protocol):
    @property
    def type(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...


def seen_by(rules: Sequence[Any], frame: pd.DataFrame, domain: Domain) -> Iterator[tuple[list[Any], pd.DataFrame]]:
    """The rules, in groups that see the same frame. Columns that only mark where a value is are left as they are."""
    import numpy as np
    import pandas as pd

    kinds = {name: domain.columns.get(name, "number") for name in frame.columns if frame[name].dtype == object}
    dates = {
        name: pd.Series(frame[name].to_numpy().astype("datetime64[s]"), frame.index)
        for name, kind in kinds.items()
        if kind == "date"
    }
    decimals = [name for name, kind in kinds.items() if kind.startswith("decimal")]
    if dates:
        frame = frame.assign(**dates)
    if not decimals:
        yield list(rules), frame
        return
    exact = [rule for rule in rules if is_exact(rule, domain)]
    if exact:
        yield exact, frame
    if others := [rule for rule in rules if rule not in exact]:
        yield others, frame.assign(**{name: frame[name].astype(np.float64) for name in decimals})


def is_exact(rule: Rule, domain: Domain) -> bool:
    """Whether a rule sees decimals as they are."""
    if rule.type in COMPARING:
        return all(domain.columns.get(name, "number").startswith("decimal") for name in rule.columns)
    return rule.type in EXACT


def arguments(domain: Domain, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """An expectation's arguments, with days and digits in text as what dates and decimals are compared with."""
    kind = domain.columns.get(given.get("column", ""), "")
    if kind == "date":
        return {name: _each(value, _moment) if name == "value_set" else value for name, value in given.items()}
    if kind.startswith("decimal"):
        return {name: _each(value, float) if name in QUANTITIES else value for name, value in given.items()}
    return given


def _moment(text: str) -> dt.datetime:
    """The beginning of a day."""
    return dt.datetime.combine(dt.date.fromisoformat(text), dt.time())


def _each(value: Any, read: Callable[[str], Any]) -> Any:
    """A value, or those of a list, as what their text says, where it says that."""
    if isinstance(value, list):
        return [_each(one, read) for one in value]
    try:
        return read(value) if isinstance(value, str) else value
    except ValueError:
        return value
