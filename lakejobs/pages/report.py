"""The lake report: one static page on what the lake holds, how good it is, and what is stale.

The page needs no network and no scripts: its charts are SVG and HTML. Its row counts come from manifests and footers,
which are known already; of the data itself, only gold tables are read. It contains a hash of everything it was built
from, and is rebuilt only when that changes.
"""

from __future__ import annotations

import datetime as dt
import importlib.resources
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lakejobs.engine import QueryError, Rows
from lakejobs.engine.sql import relations_read, text
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import is_fresh, newest_snapshot
from lakejobs.messages import LakeError, counted, few, log
from lakejobs.model import GoldFooter, Landing, digest
from lakejobs.pages import data_docs
from lakejobs.pages.charts import MOST_BARS, MOST_COLOURS, begin, ranked, timelines
from lakejobs.project import broken_domains, domains
from lakejobs.quality import suite
from lakejobs.storage import documents
from lakejobs.tables import Chart, Table, broken_sql, broken_tables, domains_of, tables

MOST_GROUPS = 12
NOT_GIVEN = "(not given)"
OTHERS = "(others)"
LINEAGE = '<meta name="lineage" content="'


def publish(run: Run, visualiser: str) -> bool:
    """Publish the page, unless it is fresh. Returns whether it did.

    `visualiser`: its URL.
    """
    lake = run.lake
    with lake.lock("report"):
        states = look(run)
        made_from = identity(run, states)
        if _lineage_of_page(run) == made_from:
            return False
        # Looked up once: another worker may publish a newer snapshot meanwhile.
        gold = {table.name: newest_snapshot(run, table) for table in tables_of(states)}
        paths = {name: lake.gold(name, snapshot) for name, (snapshot, _) in gold.items() if snapshot}
        with run.engine.tables(paths) as rows:
            facts = [gold_facts(run, table, gold[table.name][1], rows) for table in tables_of(states)]
            page = render(run, states, facts, made_from, visualiser, rows)
        lake.store.sweep("quality")
        documents.write_text(lake.store, lake.report, page)
    return True


def is_of_now(run: Run) -> bool:
    """Whether nothing in the lake is stale and the page was built from its current content."""
    states = look(run)
    return not any(due(run, state) for state in states.values()) and _lineage_of_page(run) == identity(run, states)


def look(run: Run) -> dict[str, DomainState | LakeError]:
    """The state of every domain, or the error that prevents reading it."""
    states: dict[str, DomainState | LakeError] = {}
    for domain, reason in broken_domains().items():
        states[domain] = LakeError(reason)
    for domain in domains():
        try:
            states[domain] = run.state(domain)
        except LakeError as error:
            states[domain] = error
    return states


def due(run: Run, state: DomainState | LakeError) -> list[str]:
    """What is stale in a domain, in words. At the end of a run: what it could not rebuild."""
    if isinstance(state, LakeError):
        return [str(state)]
    undone = []
    if landings := state.stale_landings():
        undone.append(f"bronze: {counted(len(landings), 'landing date')} ({few(landings, 3)})")
    if dates := state.stale_dates():
        undone.append(f"silver: {counted(len(dates), 'event date')} ({few(dates, 3)})")
    stale = [table.name for table in tables().values() if state.domain in domains_of(table) and _is_stale(run, table)]
    if names := [*stale, *broken_readers(state.domain)]:
        undone.append(f"gold: {few(names)}")
    return undone


def _is_stale(run: Run, table: Table) -> bool:
    try:
        return not is_fresh(run, table)
    except LakeError:
        return True  # one of its domains cannot be read


def broken_readers(domain: str) -> dict[str, str]:
    """The broken tables whose SQL reads a domain, directly or through other tables, and what is wrong with them."""
    reads = {name: relations_read(sql) or set() for name, sql in broken_sql().items()}
    reading = {domain} | {name for name, table in tables().items() if domain in domains_of(table)}
    while found := {name for name in reads if name not in reading and reads[name] & reading}:
        reading |= found
    return {name: broken_tables()[name] for name in sorted(reads.keys() & reading)}


def tables_of(states: Mapping[str, DomainState | LakeError]) -> list[Table]:
    """Tables whose first domain is one of these, unless the state of one of their domains is an error."""
    found = []
    for table in tables().values():
        first, *others = domains_of(table)
        if isinstance(states.get(first), DomainState) and not any(
            isinstance(states.get(other), LakeError) for other in others
        ):
            found.append(table)
    return found


def identity(run: Run, states: Mapping[str, DomainState | LakeError]) -> str:
    """A hash of everything the page shows; the same for the same lake, wherever it is."""
    parts: list[Any] = [_looks()]
    for domain, state in states.items():
        parts.append([domain, due(run, state)])
        if isinstance(state, DomainState):
            parts += [
                [[date.isoformat(), known.files, known.records, known.rejected, known.notes]
                 for date, known in sorted(state.landings.items())],
                [[date.isoformat(), footer.identity] for date, footer in sorted(state.silver.items())],
                state.ignored,
                state.warnings,
            ]  # fmt: skip
    parts += [[table.name, newest_snapshot(run, table)[0]] for table in tables_of(states)]
    return digest(parts)


def _looks() -> str:
    """A hash that changes with the page's template, its style, and its charts."""
    folder = importlib.resources.files("lakejobs.pages").joinpath("templates")
    shown = [folder.joinpath(name).read_text("utf-8") for name in ("report.html", "style.css")]
    return digest([*shown, catalogue(), [repr(table.charts) for table in tables().values()], dict(broken_tables())])


def _lineage_of_page(run: Run) -> str | None:
    head = documents.read_text(run.lake.store, run.lake.report, 1000) or ""
    return head.partition(LINEAGE)[2].partition('"')[0] or None


def render(
    run: Run,
    states: Mapping[str, DomainState | LakeError],
    tables_known: Sequence[dict[str, Any]],
    made_from: str,
    visualiser: str,
    rows: Rows,
) -> str:
    """The page as HTML."""
    known = {domain: state for domain, state in states.items() if isinstance(state, DomainState)}
    gold = {facts["name"]: facts for facts in tables_known}
    return data_docs.environment().get_template("report.html").render(
        lineage=made_from,
        style=data_docs.style(),
        made_at=dt.datetime.now(dt.UTC),
        visualiser=visualiser,
        domains=[domain_facts(run, domain, state) for domain, state in states.items()],
        rules=failing_rules(known.values()),
        catalogue=catalogue(),
        broken_tables=broken_tables(),
        gold=sorted(tables_known, key=lambda facts: str(facts["name"])),
        charts=[
            drawn
            for table in sorted(tables_of(states), key=_place)
            if gold.get(table.name, {}).get("rows")
            for chart in table.charts
            if (drawn := draw(table, chart, rows, is_fresh=gold[table.name]["is_fresh"]))
        ],
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ what is known


def domain_facts(run: Run, domain: str, state: DomainState | LakeError) -> dict[str, Any]:
    """What the page shows about a domain: its state, its rows by layer and by day, and its problem files."""
    undone = due(run, state)
    page = data_docs.newest_page(run.lake, domain)
    facts: dict[str, Any] = {"name": domain, "due": undone, "reasons": _reasons(domain) if undone else [], "page": page}
    if isinstance(state, LakeError):
        return {**facts, "is_empty": True, "charts": [], "days": [], "rejected": [], "notes": [], "warnings": []}
    fates = ("records", "rows", "valid", "invalid", "duplicates", "corrected", "rescued")
    silver = {date: footer.counts for date, footer in state.silver.items()}
    totals = {name: sum(getattr(counts, name) for counts in silver.values()) for name in fates}
    by_day = {
        date: {name: float(getattr(counts, name)) for name in ("valid", "invalid", "duplicates")}
        for date, counts in silver.items()
    }
    # The partition of the newest event date may not be the last one written: late rows change older ones.
    written = [file.modified_ns for date, file in run.lake.published(domain).items() if date in silver]
    return {
        **facts,
        "is_empty": not state.landings and not state.silver,
        "files": sum(landing.files for landing in state.landings.values()),
        "landed_records": sum(landing.records for landing in state.landings.values()),
        "malformed": sum(landing.malformed for landing in state.landings.values()),
        "newest_landing": max(state.landings, default=None),
        "partitions": len(state.silver),
        "newest_date": max(state.silver, default=None),
        "written_at": dt.datetime.fromtimestamp(max(written) / 1e9, dt.UTC) if written else None,
        **totals,
        "charts": _domain_charts(by_day),
        "days": sorted(silver.items(), reverse=True)[:MOST_BARS],
        "rejected": _files(state, lambda landing: landing.rejected),
        "notes": _files(state, lambda landing: landing.notes),
        "ignored": state.ignored,
        "warnings": state.warnings,
    }  # fmt: skip


def catalogue() -> list[dict[str, Any]]:
    """All domains and gold tables, with their declared descriptions."""
    declared = [
        {
            "name": domain.name,
            "kind": "domain",
            "grain": f"{', '.join(domain.keys)}, and the UTC day of {domain.event_time}",
            "description": domain.description,
            "columns": [
                {"name": name, "type": str(column), "description": column.description}
                for name in domain.columns
                for column in [domain.column(name)]
            ],
        }
        for domain in domains().values()
    ]
    made = [
        {
            "name": table.name,
            "kind": "gold table",
            "grain": ", ".join(table.grain),
            "description": table.description,
            "sources": [f"{one.name}{' (all days)' if one.all_days else ''}" for one in table.sources],
        }
        for table in sorted(tables().values(), key=lambda table: table.name)
    ]
    return [*declared, *made]


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


def _reasons(domain: str) -> list[str]:
    """Why a domain is stale, if its rules or the files of its tables are; the run's log has all other reasons."""
    if domain not in domains():
        return []
    reasons = list(broken_readers(domain).values())
    try:
        suite.load_suite(domains()[domain])
    except LakeError as error:
        reasons.insert(0, str(error))
    return reasons


def _files(state: DomainState, what: Callable[[Landing], Mapping[str, str | Sequence[str]]]) -> list[tuple[str, str]]:
    """Files that were rejected or have notes, the newest landing first, with the reason or notes."""
    return [
        (f"{date}/{name}", said if isinstance(said, str) else "; ".join(said))
        for date, landing in sorted(state.landings.items(), reverse=True)
        for name, said in what(landing).items()
    ]


def failing_rules(states: Iterable[DomainState]) -> list[dict[str, Any]]:
    """The codes that mark the most rows, over all domains, with the suite's notes on them."""
    found = []
    for state in states:
        failures: Counter[str] = Counter()
        for footer in state.silver.values():
            failures.update(footer.counts.failures)
        rows = sum(footer.counts.rows for footer in state.silver.values())
        notes = _rule_notes(state.domain)
        found += [
            {
                "domain": state.domain,
                "code": code,
                "rows": failing,
                "share": failing / rows,
                "note": notes.get(code) or data_docs.READING.get(code.partition(":")[0], ""),
            }
            for code, failing in failures.items()
        ]
    return sorted(found, key=lambda rule: -int(str(rule["rows"])))[:MOST_GROUPS]


def _rule_notes(domain: str) -> dict[str, str]:
    try:
        rules = suite.load_suite(domains()[domain]).rules
    except LakeError:
        return {}
    notes = {rule.code: rule.content.get("notes") or "" for rule in rules}
    return {code: note if isinstance(note, str) else " ".join(note) for code, note in notes.items()}


def gold_facts(run: Run, table: Table, footer: GoldFooter | None, rows: Rows) -> dict[str, Any]:
    """What the page shows about a gold table's newest snapshot, if there is one."""
    facts: dict[str, Any] = {
        "name": table.name,
        "domain": ", ".join(domains_of(table)),
        "is_fresh": is_fresh(run, table),
        "rows": None,
    }
    if footer is None:
        return facts
    newest = "max(date)" if table.is_daily else "null"
    ((count, date),) = rows.rows(f"select count(*), {newest} from {table.name}")
    return {**facts, "rows": count, "newest_date": date, "made_at": dt.datetime.fromisoformat(footer.generated_at)}


# ------------------------------------------------------------------------------------------------ gold as charts


def _place(table: Table) -> tuple[int, int, str]:
    """Sort key for tables in the report: by domain, the coarser grain first."""
    return list(domains()).index(domains_of(table)[0]), len(table.grain), table.name


def draw(table: Table, chart: Chart, rows: Rows, *, is_fresh: bool) -> dict[str, Any] | None:
    """A chart for the template; None if it cannot be drawn because the table is stale."""
    head = {"title": chart.title, "note": chart.note}
    there = [str(name) for name, *_ in rows.rows(f"describe {table.name}")]
    unknown = [column for column in chart.columns if column not in map(str.lower, there)]
    trouble = f"{table.name} has no column {few(unknown)} to chart; it has {few(there, 50)}"
    if not unknown:
        try:
            for _, column in chart.series:
                strange = f"select count(*) from {table.name} where not isfinite(cast({column} as double))"
                ((count,),) = rows.rows(strange)
                if count:
                    raise QueryError(f"{column} is infinite or no number in {counted(count, 'row')}")
            return head | (_over_time(chart, table.name, rows) if table.is_daily else _ranking(chart, table.name, rows))
        except QueryError as error:
            trouble = f"this chart cannot be drawn: {' '.join(str(error).split())}"
    if not is_fresh:
        return None
    trouble = f"{table.path}, line {chart.line}: {trouble}"
    log.warning("%s", trouble)
    return head | {"trouble": trouble}


def _named(chart: Chart) -> str:
    """SQL for a group's name, from the values of its columns."""
    parts = [f"coalesce({', '.join(f'cast({c} as varchar)' for c in group)}, {text(NOT_GIVEN)})" for group in chart.by]
    return f"concat_ws(' · ', {', '.join(parts)})"


def _over_time(chart: Chart, table: str, rows: Rows) -> dict[str, Any]:
    """A chart's groups by size, and their values over time.

    Values that do not add up, such as averages, are averaged. Unless they are parts of a whole, the groups are side by
    side, and only those with a colour are shown over time.
    """
    figure = "cast(sum(value) as double)" if chart.adds_up else "cast(avg(value) as double)"
    source = " union all ".join(
        f"select date, {_named(chart) if chart.by else text(name)} as name, {column} as value from {table}"
        for name, column in chart.series
    )
    groups = rows.rows(
        f"select name, {figure} as figure from ({source}) as named group by name "
        f"having count(case when value <> 0 then 1 end) > 0 order by abs({figure}) desc, name"
    )
    ((first, last),) = rows.rows(f"select min(date), max(date) from ({source}) as named")
    names = [name for name, _ in groups[:MOST_COLOURS]]
    is_coloured = f"name in ({', '.join(map(text, names))})" if names else "false"
    shown = f"case when {is_coloured} then name else {text(OTHERS)} end"
    if chart.has_shares and len(groups) > MOST_COLOURS:
        names.append(OTHERS)

    def values(unit: str, since: dt.date) -> dict[dt.date, dict[str, float]]:
        found: dict[dt.date, dict[str, float]] = defaultdict(dict)
        period = f"cast(date_trunc('{unit}', date) as date)"
        for start, name, value in rows.rows(
            f"select {period}, {shown}, {figure} from ({source}) as named "
            f"where date >= date '{since}' group by {period}, {shown}"
        ):
            found[start][name] = value or 0.0
        return found

    return {
        "groups": ranked(groups[:MOST_GROUPS], sum(abs(total) for _, total in groups) if chart.has_shares else None),
        "left_out": len(groups) - MOST_GROUPS,
        "total": sum(total for _, total in groups) if chart.has_shares else None,
        "is_average": not chart.adds_up,
        "shown": len(names) if len(groups) > len(names) else None,
        "charts": timelines(first, last, names, values, stacked=chart.has_shares),
    }


def _ranking(chart: Chart, table: str, rows: Rows) -> dict[str, Any]:
    """The highest and the lowest rows of a table."""
    (_, column), *_ = chart.series
    name = _named(chart) if chart.by else text(column)
    query = f"select {name}, cast({column} as double) from {table} where {column} is not null"
    ((count, below, whole),) = rows.rows(
        f"select count(*), count(case when {column} < 0 then 1 end), cast(sum(abs({column})) as double) from {table}"
    )
    half = MOST_GROUPS // 2
    highest = rows.rows(f"{query} order by {column} desc, 1 limit {half}")
    whole = whole if chart.has_shares and not below else None
    left = max(0, min(half, count - len(highest)))
    lowest = rows.rows(f"{query} order by {column}, 1 desc limit {left}")
    return {"count": count, "below": below, "groups": ranked(highest + lowest[::-1], whole), "charts": []}
