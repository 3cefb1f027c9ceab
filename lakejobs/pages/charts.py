"""Charts: bars over time and ranked bars, as the numbers that the templates draw."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from lakejobs.messages import counted

MOST_BARS = 60
"""Days in a chart. A longer history gets a second chart, by the shortest period that fits."""
MOST_COLOURS = 5
"""Groups with a colour of their own; all others are drawn as one."""
MOST_SAID = 3
"""Lines that a mark says."""
Marks: TypeAlias = Mapping[dt.date, Sequence[str]]
"""What is to be said about days, by day."""


def ranked(groups: Sequence[tuple[str, float]], whole: float | None) -> list[dict[str, Any]]:
    """Groups as horizontal bars: start and length of each in percent of the width, with a common zero.

    `whole`: what the groups are parts of; None if they are not.
    """
    low = min([0.0, *(value for _, value in groups)])
    high = max([0.0, *(value for _, value in groups)])
    width = high - low or 1.0
    if low < 0 < high:
        whole = None  # negative values are not parts of a whole
    return [
        {
            "name": name,
            "value": value,
            "share": abs(value) / whole if whole else None,
            "left": round(100 * (min(value, 0.0) - low) / width, 2),
            "width": round(100 * abs(value) / width, 2),
            "colour": min(place, MOST_COLOURS),
        }
        for place, (name, value) in enumerate(groups)
    ]


UNITS = ("day", "month", "quarter", "year")


def begin(date: dt.date, unit: str) -> dt.date:
    """The first day of a date's period."""
    if unit == "day":
        return date
    month = {"month": date.month, "quarter": date.month - (date.month - 1) % 3, "year": 1}[unit]
    return date.replace(month=month, day=1)


def periods(first: dt.date, last: dt.date, unit: str) -> list[dt.date]:
    """The first days of all periods from one date to another, with empty ones: a time axis has no gaps."""
    if unit == "day":
        return [first + dt.timedelta(days=day) for day in range((last - first).days + 1)]
    months = {"month": 1, "quarter": 3, "year": 12}[unit]
    first, last = begin(first, unit), begin(last, unit)
    count = ((last.year - first.year) * 12 + last.month - first.month) // months + 1
    starts = [first.month - 1 + months * number for number in range(count)]
    return [dt.date(first.year + month // 12, month % 12 + 1, 1) for month in starts]


def timelines(
    first: dt.date,
    last: dt.date,
    names: Sequence[str],
    values: Callable[[str, dt.date], Mapping[dt.date, Mapping[str, float]]],
    *,
    stacked: bool = True,
    marks: Marks | None = None,
) -> list[dict[str, Any]]:
    """A chart of the last days and, if the history is longer, another one of the whole history.

    `values(unit, since)`: the values by name, for each period that begins on `since` or later.
    """
    since = max(first, last - dt.timedelta(days=MOST_BARS - 1))
    days = periods(since, last, "day")
    caption = f"by day, {since} to {last}" if since < last else str(last)
    charts = [timeline(caption, days, "day", names, values("day", since), stacked=stacked, marks=marks)]
    if since > first:
        unit = next((unit for unit in UNITS if len(periods(first, last, unit)) <= MOST_BARS), UNITS[-1])
        whole = periods(first, last, unit)
        caption = f"by {unit}, since {first}"
        charts.append(timeline(caption, whole, unit, names, values(unit, whole[0]), stacked=stacked, marks=marks))
    return charts


def timeline(
    caption: str,
    starts: Sequence[dt.date],
    unit: str,
    names: Sequence[str],
    values: Mapping[dt.date, Mapping[str, float]],
    *,
    stacked: bool,
    marks: Marks | None = None,
) -> dict[str, Any]:
    """Bars over time, stacked or side by side, negative values downwards; marks stand above the bars.

    Heights in percent from the top, one unit of width per period.
    """
    columns = [[values.get(start, {}).get(name, 0.0) for name in names] for start in starts]
    piled = sum if stacked else lambda values: max(values, key=abs, default=0.0)
    low, high, step = scale(
        min([0.0, *(piled(v for v in column if v < 0) for column in columns)]),
        max([0.0, *(piled(v for v in column if v > 0) for column in columns)]),
        whole=all(value == int(value) for column in columns for value in column),
    )

    def height(value: float) -> float:
        return round(100 * (high - value) / (high - low), 2)

    width = 0.8 if stacked else round(0.8 / max(1, len(names)), 3)
    bars: list[dict[str, Any]] = []
    for start, column in zip(starts, columns, strict=True):
        up = down = 0.0
        parts = []
        for place, value in enumerate(column):
            left = round(len(bars) + 0.1 + (0 if stacked else place * width), 3)
            if value > 0:
                parts.append((place, left, height(up + value), round(height(up) - height(up + value), 2)))
                up += value if stacked else 0
            elif value < 0:
                parts.append((place, left, height(down), round(height(down + value) - height(down), 2)))
                down += value if stacked else 0
        said = [(name, value) for name, value in zip(names, column, strict=True) if value]
        bars.append({"label": named(start, unit), "parts": parts, "said": said})

    def centre(place: int) -> float:
        return round(100 * (place + 0.5) / len(starts), 2)

    every = max(1, math.ceil(len(starts) / 6))
    ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    labelled = range(0, len(starts), every)
    return {
        "caption": caption,
        "names": names,
        "bars": bars,
        "width": width,
        "ticks": [(height(value), compact(value)) for value in ticks],
        "labels": [(centre(place), named(starts[place], unit)) for place in labelled],
        "marks": [
            {"at": centre(starts.index(start)), "label": named(start, unit), "day": str(day), "said": said}
            for start, day, said in _marked(marks or {}, unit)
            if start in starts
        ],
    }


def _marked(marks: Marks, unit: str) -> list[tuple[dt.date, dt.date, list[str]]]:
    """The periods with marks, the last marked day of each, and what is said of it."""
    found: dict[dt.date, list[dt.date]] = {}
    for day in sorted(marks):
        found.setdefault(begin(day, unit), []).append(day)
    return [
        (
            start,
            days[-1],
            list(marks[days[0]][:MOST_SAID])
            if unit == "day"
            else [f"{counted(len(days), 'day')} changed after {'it was' if len(days) == 1 else 'they were'} over"],
        )
        for start, days in found.items()
    ]


def named(start: dt.date, unit: str) -> str:
    """A period's label: 2026-11-01, 2026-11, 2026 Q4, 2026."""
    return {
        "day": start.isoformat(),
        "month": f"{start:%Y-%m}",
        "quarter": f"{start:%Y} Q{(start.month + 2) // 3}",
        "year": f"{start:%Y}",
    }[unit]


def scale(low: float, high: float, *, whole: bool) -> tuple[float, float, float]:
    """The ends of an axis and the step between its ticks: three to six round numbers that span 0, `low` and `high`."""
    size = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(size))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= size * 0.999)
    if whole:
        step = max(1.0, step)
    return step * math.floor(low / step), step * (math.ceil(high / step) or (1 if low >= 0 else 0)), step


def compact(value: float) -> str:
    """A number shortened for an axis: 950, 1.5k, 20k, 3.2M."""
    for power, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.4g}{sign}"
    return f"{value:.4g}"
