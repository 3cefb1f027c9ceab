"""The lake report: a static page on what the lake holds, how good it is, and what is stale, and one on each gold table.

The pages need no network and no scripts: their charts are SVG and HTML. Row counts come from manifests and footers,
which are known already; of the data itself, only gold tables are read. The report contains a hash of everything it
was built from, and of each table's page, and is rebuilt only when that changes.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakejobs.engine import QueryError, Rows
from lakejobs.engine.sql import relations_read
from lakejobs.freshness import ledger
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.restated import RestatedDay, restated_days
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import is_fresh, newest_snapshot
from lakejobs.messages import LakeError, counted, few, log
from lakejobs.model import GoldFooter, Landing, digest
from lakejobs.pages import data_docs, table_pages
from lakejobs.pages.charts import MOST_BARS, begin, timelines
from lakejobs.pages.gold_charts import draw
from lakejobs.pages.lineage import Box, picture, upstream_and_down
from lakejobs.project import broken_domains, domains
from lakejobs.quality import suite
from lakejobs.storage import documents
from lakejobs.storage import footer as footers
from lakejobs.tables import Table, broken_sql, broken_tables, domains_of, tables

MOST_RULES = 12
MOST_RESTATED = 5
"""Restated days that are shown of each table."""
LINEAGE = '<meta name="lineage" content="'
TABLES = '<meta name="tables" content="'


def publish(run: Run, visualiser: str) -> bool:
    """Publish the page, unless it is fresh. Returns whether it did.

    `visualiser`: its URL.
    """
    lake = run.lake
    with lake.lock("report"):
        states = look(run)
        failed = last_failures(run, states)
        made_from = identity(run, states, failed)
        published = _published(run)
        if published.made_from == made_from and table_pages.are_known(run, published.pages):
            return False
        # Looked up once: another worker may publish a newer snapshot meanwhile.
        gold = {table.name: newest_snapshot(run, table) for table in tables_of(states)}
        paths = {name: lake.gold(name, snapshot) for name, (snapshot, _) in gold.items() if snapshot}
        restated = restated_days(run, tables())
        by_domain = {domain: domain_facts(run, domain, state, failed) for domain, state in states.items()}
        with run.engine.tables(paths) as rows:
            facts = {
                table.name: gold_facts(run, table, gold[table.name][1], rows, restated[table.name], failed)
                for table in tables_of(states)
            }
            origins = table_pages.Origins(run)
            boxes = lineage_of(states, by_domain, facts)
            about = {}
            for name, known in facts.items():
                shown = table_pages.facts_of(run, tables()[name], known, by_domain, rows, origins)
                about[name] = shown | {"picture": picture(upstream_and_down(boxes, f"gold {name}"))}
            origins.save()
        for name in (*tables(), *broken_tables()):
            about.setdefault(
                name, table_pages.unknown(run, name, broken_tables().get(name) or _unreadable(states, name))
            )
        lake.store.sweep("quality")
        pages = table_pages.publish(run, about, published.pages, visualiser)
        page = render(states, by_domain, facts, made_from, visualiser, picture(boxes), pages)
        documents.write_text(lake.store, lake.report, page)
    return True


def is_of_now(run: Run) -> bool:
    """Whether nothing in the lake is stale and the page was built from its current content."""
    states = look(run)
    if any(due(run, state) for state in states.values()):
        return False
    published = _published(run)
    return published.made_from == identity(run, states, {}) and table_pages.are_known(run, published.pages)


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


def last_failures(run: Run, states: Mapping[str, DomainState | LakeError]) -> dict[str, str]:
    """Why the last run could not build domains and tables, by name, if anything is due."""
    if not any(due(run, state) for state in states.values()):
        return {}
    try:
        last = {(entry.task, entry.name): entry for entry in ledger.last_run(run.lake)}
    except QueryError as error:
        log.warning("the run ledger cannot be read: %s", error)
        return {}
    return {entry.name: entry.reason for entry in last.values() if entry.outcome == ledger.FAILED}


def due(run: Run, state: DomainState | LakeError) -> list[str]:
    """What is stale in a domain, in words. At the end of a run: what it could not rebuild."""
    if isinstance(state, LakeError):
        return [str(state)]
    undone = [f"{layer}: {what}" for layer, what in due_below(state)]
    stale = [table.name for table in tables().values() if state.domain in domains_of(table) and _is_stale(run, table)]
    if names := [*stale, *broken_readers(state.domain)]:
        undone.append(f"gold: {few(names)}")
    return undone


def due_below(state: DomainState) -> list[tuple[str, str]]:
    """What is stale in a domain below gold: the layer, and its dates in words."""
    undone = []
    if landings := state.stale_landings():
        undone.append(("bronze", f"{counted(len(landings), 'landing date')} ({few(landings, 3)})"))
    if dates := state.stale_dates():
        undone.append(("silver", f"{counted(len(dates), 'event date')} ({few(dates, 3)})"))
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


def identity(run: Run, states: Mapping[str, DomainState | LakeError], failed: Mapping[str, str]) -> str:
    """A hash of everything the page shows; the same for the same lake, wherever it is. `failed`: `last_failures`."""
    parts: list[Any] = [_looks(), failed]
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
    """A hash that changes with the templates and the charts."""
    charts = [repr(table.charts) for table in tables().values()]
    looks = data_docs.looks("report.html", "table.html", "macros.html")
    return digest([looks, catalogue(), charts, dict(broken_tables())])


@dataclass(frozen=True)
class Published:
    """What the head of the published page says."""

    made_from: str
    pages: Mapping[str, str]
    """By table; see `table_pages.are_known`."""


def _published(run: Run) -> Published:
    head = documents.read_text(run.lake.store, run.lake.report, 1000 + 200 * len(tables())) or ""
    made_from, pages = (head.partition(name)[2].partition('"')[0] for name in (LINEAGE, TABLES))
    return Published(made_from, dict(zip(*[iter(pages.split())] * 2, strict=False)))


def _unreadable(states: Mapping[str, DomainState | LakeError], table: str) -> str:
    """Why nothing can be said about a table."""
    found = [states[domain] for domain in domains_of(tables()[table])]
    return few([str(state) for state in found if isinstance(state, LakeError)])


def render(
    states: Mapping[str, DomainState | LakeError],
    by_domain: Mapping[str, Mapping[str, Any]],
    gold: Mapping[str, Mapping[str, Any]],
    made_from: str,
    visualiser: str,
    drawn: Mapping[str, Any],
    pages: Mapping[str, str],
) -> str:
    """The page as HTML. `by_domain` and `gold`: facts by domain and table. `drawn`: the picture of the lineage."""
    known = {domain: state for domain, state in states.items() if isinstance(state, DomainState)}
    return data_docs.environment().get_template("report.html").render(
        made_from=made_from,
        pages=" ".join(f"{name} {hashed}" for name, hashed in pages.items()),
        style=data_docs.style(),
        made_at=dt.datetime.now(dt.UTC),
        visualiser=visualiser,
        domains=[*by_domain.values()],
        rules=failing_rules(known.values()),
        catalogue=catalogue(),
        broken_tables=broken_tables(),
        restated=[day for name in sorted(gold) for day in gold[name]["restated"][:MOST_RESTATED]],
        gold=[gold[name] for name in sorted(gold)],
        charts=[
            chart | {"table": table.name}
            for table in sorted(tables_of(states), key=_place)
            for chart in gold[table.name]["charts"]
        ],
        picture=drawn,
    )  # fmt: skip


def lineage_of(
    states: Mapping[str, DomainState | LakeError],
    by_domain: Mapping[str, Mapping[str, Any]],
    gold: Mapping[str, Mapping[str, Any]],
) -> dict[str, Box]:
    """What is made from what in the whole lake. `by_domain` and `gold`: facts by domain and table."""
    boxes: dict[str, Box] = {}
    for domain, state in states.items():
        lands = silver = "cannot be read"
        lands_state = silver_state = "bad"
        known = by_domain[domain]
        if isinstance(state, DomainState):
            lands = counted(known["landed_records"], "record")
            silver = f"{known['valid']:,} of {counted(known['rows'], 'row')} valid"
            lands_state = "bad" if state.stale_landings() else "good"
            silver_state = "bad" if lands_state == "bad" or state.stale_dates() else "good"
        page = f"data_docs/{known['page']}" if known["page"] else None
        boxes[f"bronze {domain}"] = Box("bronze", domain, lands, lands_state)
        boxes[f"silver {domain}"] = Box("silver", domain, silver, silver_state, [f"bronze {domain}"], page)
    for name, table in tables().items():
        known = gold.get(name) or {"is_fresh": False, "rows": None}
        said = "no snapshot" if known["rows"] is None else counted(known["rows"], "row")
        reads = [
            f"silver {source.name}" if source.name in domains() else f"gold {source.name}" for source in table.sources
        ]
        boxes[f"gold {name}"] = Box(
            "gold", name, said, "good" if known["is_fresh"] else "bad", reads, f"tables/{name}.html"
        )
    for name in broken_tables():
        read = relations_read(broken_sql().get(name, "")) or set()
        reads = [key for source in sorted(read) for key in (f"silver {source}", f"gold {source}") if key in boxes]
        boxes[f"gold {name}"] = Box("gold", name, "broken", "bad", reads, f"tables/{name}.html")
    return boxes


# ------------------------------------------------------------------------------------------------ what is known


def domain_facts(run: Run, domain: str, state: DomainState | LakeError, failed: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows about a domain: its state, its rows by layer and by day, and its problem files."""
    undone = due(run, state)
    page = data_docs.newest_page(run.lake, domain)
    reasons = _reasons(domain, failed) if undone else []
    facts: dict[str, Any] = {"name": domain, "due": undone, "reasons": reasons, "page": page}
    facts["is_fresh"] = isinstance(state, DomainState) and not due_below(state)
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


def _reasons(domain: str, failed: Mapping[str, str]) -> list[str]:
    """Why a domain is stale, if its rules or the files of its tables are broken, or the last run failed to build it."""
    if domain not in domains():
        return []
    reasons = list(broken_readers(domain).values())
    try:
        suite.load_suite(domains()[domain])
    except LakeError as error:
        reasons.insert(0, str(error))
    names = [domain, *(table.name for table in tables().values() if domain in domains_of(table))]
    return list(dict.fromkeys([*reasons, *(failed[name] for name in names if name in failed)]))


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
    return sorted(found, key=lambda rule: -int(str(rule["rows"])))[:MOST_RULES]


def _rule_notes(domain: str) -> dict[str, str]:
    try:
        rules = suite.load_suite(domains()[domain]).rules
    except LakeError:
        return {}
    notes = {rule.code: rule.content.get("notes") or "" for rule in rules}
    return {code: note if isinstance(note, str) else " ".join(note) for code, note in notes.items()}


def gold_facts(
    run: Run,
    table: Table,
    footer: GoldFooter | None,
    rows: Rows,
    restated: Sequence[RestatedDay],
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """What the page shows about a gold table's newest snapshot, if there is one."""
    below = [
        f"{layer} {domain} is not up to date: {what}"
        for domain in domains_of(table)
        for layer, what in due_below(run.state(domain))
    ]
    is_built = is_fresh(run, table)
    facts: dict[str, Any] = {
        "name": table.name, "is_fresh": is_built and not below, "due_below": below, "rows": None, "charts": [],
        "restated": restated,
        "warnings": [warning for domain in domains_of(table) for warning in run.state(domain).warnings],
        "failed": [failed[name] for name in (*domains_of(table), table.name) if name in failed],
    }  # fmt: skip
    if footer is None:
        return facts
    newest = "max(date)" if table.is_daily else "null"
    ((count, date),) = rows.rows(f"select count(*), {newest} from {table.name}")
    statement = table.statement
    if footer.sql != table.hash:
        snapshot, _ = newest_snapshot(run, table)
        content = footers.read_footer(run.lake.store, run.lake.gold(table.name, snapshot or ""), verify=False) or {}
        statement = content.get("statement", "")
    marks = table_pages.marks(restated)
    drawn = [draw(table, chart, rows, is_fresh=is_built, marks=marks) for chart in table.charts if count]
    return facts | {
        "rows": count,
        "newest_date": date,
        "statement": statement,
        "made_at": dt.datetime.fromisoformat(footer.generated_at),
        "charts": [chart for chart in drawn if chart],
    }


def _place(table: Table) -> tuple[int, int, str]:
    """Sort key for tables in the report: by domain, the coarser grain first."""
    return list(domains()).index(domains_of(table)[0]), len(table.grain), table.name
