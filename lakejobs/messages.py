"""Messages for people: the error that needs no traceback, the log, and the format of counts, names, dates, shares."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import datetime as dt

log = logging.getLogger("luigi-interface.lakejobs")
"""The project's logger. It is a child of Luigi's, so Luigi's level and handlers apply to it too."""

OnProgress: TypeAlias = Callable[[str, int], None]
"""Called with what is being done and the progress in percent."""


def quietly(message: str, percent: int) -> None:
    """An `OnProgress` for when nobody watches."""


class LakeError(Exception):
    """An error the user can fix. The message says what is wrong, in which file or setting, and what to do."""


def counted(number: int, thing: str) -> str:
    """`1 file`, `1,234 files`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def few(names: Iterable[object], most: int = 8) -> str:
    """The first names of a list and the number of others: `a, b and 3 more`."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def span(dates: Sequence[dt.date]) -> str:
    """Up to three dates in full, more as a span: `2026-11-01, 2026-11-03`, `2026-11-01 … 2026-11-30 (30 days)`."""
    if len(dates) <= 3:
        return ", ".join(date.isoformat() for date in dates)
    return f"{dates[0]} … {dates[-1]} ({len(dates):,} days)"


def percent(share: float) -> str:
    """A share as a percentage. Never rounds a small share to 0%, nor one just below 1 to 100%."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%"
