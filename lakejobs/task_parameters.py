"""Parameters of the tasks. Invalid values fail when the task is built, with the valid choices in the message."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable
from typing import Any

import luigi

from lakejobs import tables
from lakejobs.messages import LakeError
from lakejobs.project import broken_domains, domains

BATCH_FORMATS = ("%Y%m%d_%H%M%S", "%Y-%m-%dT%H%M%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S")


class NameParameter(luigi.Parameter[str]):
    """One of a set of known names."""

    def __init__(self, what: str, choices: Callable[[], Iterable[str]]) -> None:
        self.what, self.choices = what, choices
        super().__init__(description=f"Name of a {what}.")

    def normalize(self, value: str) -> str:
        # Look up the names late: they depend on settings, and this object is created before settings are read.
        if value not in (names := sorted(self.choices())):
            raise LakeError(f"unknown {self.what} {value!r}; expected one of {', '.join(names)}")
        return value


class DomainParameter(NameParameter):
    """A domain. If its module is broken, building the task fails; with `broken=True` that is left to its `run`."""

    def __init__(self, *, broken: bool = False) -> None:
        self._takes_broken = broken
        super().__init__("domain", domains)

    def normalize(self, value: str) -> str:
        if reason := broken_domains().get(value):
            if not self._takes_broken:
                raise LakeError(reason)
            return value
        return super().normalize(value)


class TableParameter(NameParameter):
    def __init__(self) -> None:
        super().__init__("gold table", lambda: (name for name, _, _ in tables.read_sql()))


class DateParameter(luigi.DateParameter):
    """A date, YYYY-MM-DD."""

    def parse(self, text: str) -> dt.date:
        return parse_date(text)


class DatesParameter(luigi.Parameter[str]):
    """One or more dates, YYYY-MM-DD, separated by commas: Luigi merges tasks for single dates into one.

    The dates are sorted, because a scheduler merges them in the order it met them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(batch_method=",".join, **kwargs)

    def parse(self, text: str) -> str:
        return self.normalize(text)

    def normalize(self, value: str | dt.date) -> str:
        return ",".join(sorted({parse_date(day).isoformat() for day in str(value).split(",")}))


class BatchParameter(luigi.Parameter[dt.datetime]):
    """The timestamp (UTC) of a batch of generated rows: YYYYMMDD_HHMMSS, or ISO 8601 to the second."""

    def parse(self, text: str) -> dt.datetime:
        for form in BATCH_FORMATS:
            try:
                return dt.datetime.strptime(text, form)
            except ValueError:
                continue
        raise LakeError(f"expected a batch as YYYYMMDD_HHMMSS, for example 20261101_120000, got {text!r}")

    def normalize(self, value: str | dt.datetime) -> dt.datetime:
        return self.parse(value) if isinstance(value, str) else value.replace(microsecond=0, tzinfo=None)

    def serialize(self, value: dt.datetime) -> str:
        return value.strftime(BATCH_FORMATS[0])


def parse_date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise LakeError(f"expected a date as YYYY-MM-DD, for example 2026-11-01, got {text!r}") from None
