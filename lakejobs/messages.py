"""What a person reads: the error that needs no traceback, the log, and how numbers, names and days are written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import datetime as dt

log = logging.getLogger("luigi-interface.lakejobs")
"""The project's logger. It hangs below Luigi's, so Luigi's level and handler settings hold for it too."""

OnProgress: TypeAlias = Callable[[str, int], None]
"""Told what is being done, and how far it has come in percent."""


class LakeError(Exception):
    """Something a person can mend. The text says what is wrong, in which file or setting, and what to do."""


def counted(number: int, thing: str) -> str:
    """`1 file`, `1,234 files`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def few(names: Iterable[object], most: int = 8) -> str:
    """The first names of a list, and how many more there are."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def span(dates: Sequence[dt.date]) -> str:
    """Dates as a person would say them: `2026-11-01, 2026-11-03`, `2026-11-01 … 2026-11-30 (30 days)`."""
    if len(dates) <= 3:
        return ", ".join(date.isoformat() for date in dates)
    return f"{dates[0]} … {dates[-1]} ({len(dates):,} days)"


def percent(share: float) -> str:
    """A share as a person reads it; a few of many are not none, and all but a few are not all."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%"
