"""Parameters of the tasks: what is typed wrong is refused when the task is built, with the choices there are."""

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
    """One of the names that there are."""

    def __init__(self, what: str, choices: Callable[[], Iterable[str]]) -> None:
        self.what, self.choices = what, choices
        super().__init__(description=f"Name of a {what}.")

    def normalize(self, value: str) -> str:
        # Asked late: which names there are is a setting, and this object is made before settings are read.
        if value not in (names := sorted(self.choices())):
            raise LakeError(f"there is no {self.what} {value!r}; there are {', '.join(names)}")
        return value


class DomainParameter(NameParameter):
    """A domain. One whose module is broken is refused with the reason, unless the task itself says it."""

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
    """A day, YYYY-MM-DD."""

    def parse(self, text: str) -> dt.date:
        return parse_date(text)


class DatesParameter(luigi.Parameter[str]):
    """A day, YYYY-MM-DD, or several joined by commas: Luigi joins tasks of single days to one that does them all.

    In the order of days, whatever order they come in: a scheduler joins them as it once met them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(batch_method=",".join, **kwargs)

    def normalize(self, value: str | dt.date) -> str:
        return ",".join(sorted({parse_date(day).isoformat() for day in str(value).split(",")}))


class BatchParameter(luigi.Parameter[dt.datetime]):
    """A batch of generated rows, named by the moment (UTC) it is for: YYYYMMDD_HHMMSS or ISO 8601 to the second."""

    def parse(self, text: str) -> dt.datetime:
        for form in BATCH_FORMATS:
            try:
                return dt.datetime.strptime(text, form)
            except ValueError:
                continue
        raise LakeError(f"batch {text!r} is not a moment; write YYYYMMDD_HHMMSS, for example 20261101_120000")

    def normalize(self, value: str | dt.datetime) -> dt.datetime:
        return self.parse(value) if isinstance(value, str) else value.replace(microsecond=0, tzinfo=None)

    def serialize(self, value: dt.datetime) -> str:
        return value.strftime(BATCH_FORMATS[0])


def parse_date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise LakeError(f"{text!r} is not a day; write YYYY-MM-DD, for example 2026-11-01") from None
