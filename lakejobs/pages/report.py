"""The lake report: one static page on what the lake holds, how good it is, and what could not be made.

The page needs no network and no script: its charts are SVG and HTML. What it says of rows comes from manifests and
footers, which are known already; of the data itself only the gold tables are read. It carries a hash of everything it
was made from, so it is made again when something changed, and only then.
"""

from __future__ import annotations

import datetime as dt
import importlib.resources
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import luigi

from lakejobs import docs, lineage, quality
from lakejobs import lake as storage
from lakejobs.console import LakeError, counted, few, tell
from lakejobs.engine import DuckDB, Engine, text
from lakejobs.gold import Table, domain_of, is_fresh, newest_snapshot, tables
from lakejobs.lake import Lake
from lakejobs.lineage import DomainState
from lakejobs.project import domains
from lakejobs.runs import LakeTask

MOST_BARS = 60
"""A chart shows the last so many days; a longer history has a second one, by the shortest period that fits."""
MOST_GROUPS = 12
MOST_COLOURS = 5
"""Groups that have a colour of their own; the rest are drawn as one."""
NOT_GIVEN = "(not given)"
OTHERS = "(others)"
LINEAGE = '<meta name="lineage" content="'


@dataclass(frozen=True)
class Measure:
    """A gold table as a manager looks at it: a sum over time, told apart by name."""

    title: str
    table: str
    query: str
    """Gives date, name, value, with any number of rows for each date and name."""
    note: str = ""


MEASURES = (
    Measure(
        "Revenue",
        "daily_sales_summary",
        "select date, 'net' as name, net_revenue as value from daily_sales_summary "
        "union all select date, 'refunded or cancelled', refunded_amount from daily_sales_summary",
        "Valid sales, in the currency of the source.",
    ),
    Measure(
        "Revenue by category",
        "category_sales_summary",
        "select date, category as name, category_revenue as value from category_sales_summary",
    ),
    Measure(
        "Revenue by payment method",
        "payment_method_summary",
        "select date, payment_method as name, payment_revenue as value from payment_method_summary",
    ),
    Measure(
        "Events by type",
        "customer_activity_summary",
        "select date, event_type as name, event_count as value from customer_activity_summary",
    ),
    Measure(
        "Sessions by device",
        "device_usage_summary",
        "select date, device_type as name, session_count as value from device_usage_summary",
        "A session counts once for each day and device it was seen on.",
    ),
    Measure(
        "Stock moved",
        "inventory_movement_summary",
        "select date, movement_type as name, total_quantity as value from inventory_movement_summary",
        "Pieces, as booked.",
    ),
)


class Report(LakeTask):
    """The page about the lake as it is now; on a bad day too, when other tasks failed."""

    # It requires nothing that could fail and keep it from running. All else has a higher priority, so it comes last.
    # (Below 0 would not do: luigid takes 0 for the priority of a task that is done, and never lowers one again.)
    priority = 0

    def output(self) -> ReportTarget:
        return ReportTarget()

    def run(self) -> None:
        if publish():
            tell(self, f"written to {self.output()}", percent=100, link=docs.page_url(str(self.output())))


class ReportTarget(luigi.Target):
    """Exists when nothing is due in the lake and the page was made from what is there now."""

    def exists(self) -> bool:
        states = look()
        return not any(due(state) for state in states.values()) and _lineage_of_page() == identity(states)

    def __str__(self) -> str:
        return storage.current().report


def publish() -> bool:
    """Make the page, unless it is of the lake as it is now. Returns whether it was made."""
    lake = storage.current()
    with storage.lock(lake, "report"), storage.scratch(lake, "report") as spill:
        states = look()
        made_from = identity(states)
        if _lineage_of_page() == made_from:
            return False
        with DuckDB(spill) as engine:
            page = render(lake, states, made_from, engine)
        storage.sweep(lake.report.rpartition("/")[0])
        storage.write_text(lake.report, page)
    return True


def look() -> dict[str, DomainState | LakeError]:
    """The state of every domain, or why it cannot be told."""
    states: dict[str, DomainState | LakeError] = {}
    for domain in domains():
        try:
            states[domain] = lineage.state(domain)
        except LakeError as error:
            states[domain] = error
    return states


def due(state: DomainState | LakeError) -> list[str]:
    """What is still to be made of a domain, in words. At the end of a run: what it could not make."""
    if isinstance(state, LakeError):
        return [str(state)]
    undone = []
    if landings := state.stale_landings():
        undone.append(f"bronze: {counted(len(landings), 'landing date')} ({few(landings, 3)})")
    if dates := state.stale_dates():
        undone.append(f"silver: {counted(len(dates), 'event date')} ({few(dates, 3)})")
    if names := [table.name for table in tables_of(state) if not is_fresh(state, table)]:
        undone.append(f"gold: {few(names)}")
    return undone


def tables_of(state: DomainState) -> list[Table]:
    return [table for table in tables().values() if domain_of(table) == state.domain]


def identity(states: Mapping[str, DomainState | LakeError]) -> str:
    """A hash of all that the page says; the same for the same lake, wherever it is."""
    parts: list[Any] = [_looks()]
    for domain, state in states.items():
        parts.append([domain, due(state)])
        if isinstance(state, DomainState):
            parts += [
                [[date.isoformat(), facts["files"], facts["records"], facts["rejected"], facts["notes"]]
                 for date, facts in sorted(state.landings.items())],
                [[date.isoformat(), footer["identity"]] for date, footer in sorted(state.silver.items())],
                [newest_snapshot(state, table)[0] for table in tables_of(state)],
                state.passed_by,
                state.warnings,
            ]  # fmt: skip
    return lineage.digest(parts)


@cache
def _looks() -> str:
    """Changes with the page's template, its style, and what it charts."""
    folder = importlib.resources.files("lakejobs").joinpath("templates")
    shown = [folder.joinpath(name).read_text("utf-8") for name in ("report.html", "style.css")]
    return lineage.digest([*shown, repr(MEASURES)])


def _lineage_of_page() -> str | None:
    head = storage.read_text(storage.current().report, 1000) or ""
    return head.partition(LINEAGE)[2].partition('"')[0] or None


def scheduler_url() -> str:
    """Where the visualiser is."""
    core = luigi.interface.core()
    return str(core.scheduler_url or f"http://{core.scheduler_host}:{core.scheduler_port}")


def render(lake: Lake, states: Mapping[str, DomainState | LakeError], made_from: str, engine: Engine) -> str:
    """The page's text."""
    known = {domain: state for domain, state in states.items() if isinstance(state, DomainState)}
    gold = {table.name: gold_facts(state, table, engine) for state in known.values() for table in tables_of(state)}
    return docs.environment().get_template("report.html").render(
        lineage=made_from,
        style=docs.style(),
        made_at=dt.datetime.now(dt.UTC),
        visualiser=scheduler_url(),
        domains=[domain_facts(lake, domain, state) for domain, state in states.items()],
        rules=failing_rules(known.values()),
        gold=sorted(gold.values(), key=lambda facts: str(facts["name"])),
        measures=[
            drawn for measure in MEASURES
            if gold.get(measure.table, {}).get("rows") and (drawn := draw_measure(measure, engine))
        ],
        net_position=net_position(engine) if gold.get("inventory_net_position", {}).get("rows") else None,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ what is known


def domain_facts(lake: Lake, domain: str, state: DomainState | LakeError) -> dict[str, Any]:
    """What the page says of a domain: its state, its rows through the layers, by day, and its files in trouble."""
    undone = due(state)
    page = docs.newest_page(lake, domain)
    facts: dict[str, Any] = {"name": domain, "due": undone, "reason": _reason(domain) if undone else None, "page": page}
    if isinstance(state, LakeError):
        return {**facts, "is_empty": True, "charts": [], "days": [], "rejected": [], "notes": [], "warnings": []}
    fates = ("records", "rows", "valid", "invalid", "duplicates", "corrected", "rescued")
    totals = {name: sum(footer[name] for footer in state.silver.values()) for name in fates}
    by_day = {
        date: {name: float(footer[name]) for name in ("valid", "invalid", "duplicates")}
        for date, footer in state.silver.items()
    }
    # The partition of the newest event date need not be the last that was written: late rows change older ones.
    written = [file.mtime_ns for date in state.silver if (file := storage.file(lake.silver(domain, date)))]
    return {
        **facts,
        "is_empty": not state.landings and not state.silver,
        "files": sum(landing["files"] for landing in state.landings.values()),
        "landed_records": sum(landing["records"] for landing in state.landings.values()),
        "malformed": sum(landing["malformed"] for landing in state.landings.values()),
        "newest_landing": max(state.landings, default=None),
        "partitions": len(state.silver),
        "newest_date": max(state.silver, default=None),
        "written_at": dt.datetime.fromtimestamp(max(written) / 1e9, dt.UTC) if written else None,
        **totals,
        "charts": _domain_charts(by_day),
        "days": sorted(state.silver.items(), reverse=True)[:MOST_BARS],
        "rejected": _files(state, "rejected"),
        "notes": _files(state, "notes"),
        "passed_by": state.passed_by,
        "warnings": state.warnings,
    }  # fmt: skip


def _domain_charts(by_day: Mapping[dt.date, Mapping[str, float]]) -> list[dict[str, Any]]:
    if not by_day:
        return []

    def sums(unit: str, since: dt.date) -> dict[dt.date, dict[str, float]]:
        return _by_period(by_day, unit, since)

    return timelines(min(by_day), max(by_day), ("valid", "invalid", "duplicates"), sums)


def _by_period(
    by_day: Mapping[dt.date, Mapping[str, float]], unit: str, since: dt.date
) -> dict[dt.date, dict[str, float]]:
    sums: dict[dt.date, Counter[str]] = defaultdict(Counter)
    for date, values in by_day.items():
        if date >= since:
            sums[begin(date, unit)].update(values)
    return {date: dict(values) for date, values in sums.items()}


def _reason(domain: str) -> str | None:
    """Why a domain is behind, where its rules are to blame; the log of the run has every other reason."""
    try:
        quality.load_suite(domains()[domain])
    except LakeError as error:
        return str(error)
    return None


def _files(state: DomainState, what: str) -> list[tuple[str, str]]:
    """Files that were rejected or have notes, the newest landing first, with what is to be said of them."""
    return [
        (f"{date}/{name}", said if isinstance(said, str) else "; ".join(said))
        for date, landing in sorted(state.landings.items(), reverse=True)
        for name, said in landing[what].items()
    ]


def failing_rules(states: Iterable[DomainState]) -> list[dict[str, Any]]:
    """The codes that most rows are marked with, over all domains, with the suite's own words for them."""
    found = []
    for state in states:
        failures: Counter[str] = Counter()
        for footer in state.silver.values():
            failures.update(footer["failures"])
        rows = sum(footer["rows"] for footer in state.silver.values())
        notes = _rule_notes(state.domain)
        found += [
            {
                "domain": state.domain,
                "code": code,
                "rows": failing,
                "share": failing / rows,
                "note": notes.get(code) or docs.READING.get(code.partition(":")[0], ""),
            }
            for code, failing in failures.items()
        ]
    return sorted(found, key=lambda rule: -int(str(rule["rows"])))[:MOST_GROUPS]


def _rule_notes(domain: str) -> dict[str, str]:
    try:
        rules = quality.load_suite(domains()[domain]).rules
    except LakeError:
        return {}
    notes = {rule.code: rule.content.get("notes") or "" for rule in rules}
    return {code: note if isinstance(note, str) else " ".join(note) for code, note in notes.items()}


def gold_facts(state: DomainState, table: Table, engine: Engine) -> dict[str, Any]:
    """A gold table's newest snapshot; makes it readable under the table's name."""
    snapshot, footer = newest_snapshot(state, table)
    facts: dict[str, Any] = {
        "name": table.name,
        "domain": state.domain,
        "is_fresh": is_fresh(state, table),
        "rows": None,
    }
    if snapshot is None or footer is None:
        return facts
    engine.read_parquet(table.name, [state.lake.gold(table.name, snapshot)])
    newest = "max(date)" if table.is_daily else "null"
    ((rows, date),) = engine.rows(f"select count(*), {newest} from {table.name}")
    return {**facts, "rows": rows, "newest_date": date, "made_at": dt.datetime.fromisoformat(footer["generated_at"])}


# ------------------------------------------------------------------------------------------------ gold as charts


def draw_measure(measure: Measure, engine: Engine) -> dict[str, Any] | None:
    """A measure's groups by size and its course over time. None where it cannot be drawn.

    That is so where the table was last made by another version of its SQL, and its domain fails since.
    """
    import duckdb

    source = f"select date, coalesce(name, {text(NOT_GIVEN)}) as name, value from ({measure.query}) as measure"
    try:
        groups = engine.rows(
            f"select name, cast(sum(value) as double) as total from ({source}) as named where value <> 0 group by name "
            "order by abs(cast(sum(value) as double)) desc, name"
        )
        ((first, last),) = engine.rows(f"select min(date), max(date) from ({source}) as named")
    except duckdb.Error:
        return None
    coloured = [name for name, _ in groups[:MOST_COLOURS]]
    names = [*coloured, *([OTHERS] if len(groups) > MOST_COLOURS else [])]
    shown = (
        f"case when name in ({', '.join(map(text, coloured))}) then name else {text(OTHERS)} end"
        if coloured
        else "name"
    )

    def sums(unit: str, since: dt.date) -> dict[dt.date, dict[str, float]]:
        found: dict[dt.date, dict[str, float]] = defaultdict(dict)
        period = f"cast(date_trunc('{unit}', date) as date)"
        for start, name, value in engine.rows(
            f"select {period}, {shown}, cast(sum(value) as double) from ({source}) as named "
            f"where date >= date '{since}' group by {period}, {shown}"
        ):
            found[start][name] = value or 0.0
        return found

    return {
        "title": measure.title,
        "note": measure.note,
        "groups": ranked(groups[:MOST_GROUPS], sum(abs(total) for _, total in groups)),
        "left_out": len(groups) - MOST_GROUPS,
        "total": sum(total for _, total in groups),
        "charts": timelines(first, last, names, sums),
    }


def net_position(engine: Engine) -> dict[str, Any] | None:
    """The stock at its highest and at its lowest, by product and warehouse."""
    import duckdb

    name = "concat_ws(' · ', coalesce(product_name, product_id, 'no product'), coalesce(warehouse_id, 'no warehouse'))"
    query = f"select {name}, cast(net_position as double) from inventory_net_position where net_position is not null"
    try:
        ((places, below),) = engine.rows(
            "select count(*), count(case when net_position < 0 then 1 end) from inventory_net_position"
        )
        half = MOST_GROUPS // 2
        highest = engine.rows(f"{query} order by net_position desc, {name} limit {half}")
        left = max(0, min(half, places - len(highest)))
        lowest = engine.rows(f"{query} order by net_position, {name} desc limit {left}")
    except duckdb.Error:
        return None
    return {"places": places, "below": below, "groups": ranked(highest + lowest[::-1], None)}


def ranked(groups: Sequence[tuple[str, float]], whole: float | None) -> list[dict[str, Any]]:
    """Groups as horizontal bars: where each begins and how long it is, in percent of the width, about a common zero."""
    low = min([0.0, *(value for _, value in groups)])
    high = max([0.0, *(value for _, value in groups)])
    width = high - low or 1.0
    if low < 0 < high:
        whole = None  # what is taken off is no part of a whole
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


# ------------------------------------------------------------------------------------------------ time


UNITS = ("day", "month", "quarter", "year")


def begin(date: dt.date, unit: str) -> dt.date:
    """The first day of the period that a date is in."""
    if unit == "day":
        return date
    month = {"month": date.month, "quarter": date.month - (date.month - 1) % 3, "year": 1}[unit]
    return date.replace(month=month, day=1)


def periods(first: dt.date, last: dt.date, unit: str) -> list[dt.date]:
    """The first days of all periods from one date to another, empty ones too: an axis of time has no gaps."""
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
    sums: Callable[[str, dt.date], Mapping[dt.date, Mapping[str, float]]],
) -> list[dict[str, Any]]:
    """One chart of the last days, and where the history is longer, another one of all of it.

    `sums(unit, since)`: the values by name, of each period that begins then or later.
    """
    since = max(first, last - dt.timedelta(days=MOST_BARS - 1))
    days = periods(since, last, "day")
    charts = [
        timeline(f"by day, {since} to {last}" if since < last else str(last), days, "day", names, sums("day", since))
    ]
    if since > first:
        unit = next((unit for unit in UNITS if len(periods(first, last, unit)) <= MOST_BARS), UNITS[-1])
        whole = periods(first, last, unit)
        charts.append(timeline(f"by {unit}, since {first}", whole, unit, names, sums(unit, whole[0])))
    return charts


def timeline(
    caption: str,
    starts: Sequence[dt.date],
    unit: str,
    names: Sequence[str],
    values: Mapping[dt.date, Mapping[str, float]],
) -> dict[str, Any]:
    """Stacked bars over time, values below zero downwards. Heights in percent from the top, one unit of width a bar."""
    columns = [[values.get(start, {}).get(name, 0.0) for name in names] for start in starts]
    low, high, step = scale(
        min([0.0, *(sum(v for v in column if v < 0) for column in columns)]),
        max([0.0, *(sum(v for v in column if v > 0) for column in columns)]),
        whole=all(value == int(value) for column in columns for value in column),
    )

    def height(value: float) -> float:
        return round(100 * (high - value) / (high - low), 2)

    bars: list[dict[str, Any]] = []
    for start, column in zip(starts, columns, strict=True):
        up = down = 0.0
        parts = []
        for place, value in enumerate(column):
            if value > 0:
                parts.append((place, height(up + value), round(height(up) - height(up + value), 2)))
                up += value
            elif value < 0:
                parts.append((place, height(down), round(height(down + value) - height(down), 2)))
                down += value
        said = [(name, value) for name, value in zip(names, column, strict=True) if value]
        bars.append({"at": round(len(bars) + 0.1, 1), "label": named(start, unit), "parts": parts, "said": said})
    every = max(1, math.ceil(len(starts) / 6))
    ticks = [low + step * number for number in range(round((high - low) / step) + 1)]
    labelled = range(0, len(starts), every)
    return {
        "caption": caption,
        "names": names,
        "bars": bars,
        "ticks": [(height(value), compact(value)) for value in ticks],
        "labels": [(round(100 * (place + 0.5) / len(starts), 2), named(starts[place], unit)) for place in labelled],
    }


def named(start: dt.date, unit: str) -> str:
    """A period as its label: 2026-11-01, 2026-11, 2026 Q4, 2026."""
    return {
        "day": start.isoformat(),
        "month": f"{start:%Y-%m}",
        "quarter": f"{start:%Y} Q{(start.month + 2) // 3}",
        "year": f"{start:%Y}",
    }[unit]


def scale(low: float, high: float, *, whole: bool) -> tuple[float, float, float]:
    """The ends of an axis and the step between its ticks: three to six round numbers that hold zero and both ends."""
    size = (high - low) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(size))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= size * 0.999)
    if whole:
        step = max(1.0, step)
    return step * math.floor(low / step), step * (math.ceil(high / step) or (1 if low >= 0 else 0)), step


def compact(value: float) -> str:
    """A number as short as an axis wants it: 950, 1.5k, 20k, 3.2M."""
    for power, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.4g}{sign}"
    return f"{value:.4g}"
