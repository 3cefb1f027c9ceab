"""A page for each gold table: how it stands, where its columns come from, what was kept out, and what changed."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lakejobs.engine import QueryError, Rows, lineage
from lakejobs.engine.lineage import Origin
from lakejobs.engine.local import GENERATED_AT
from lakejobs.engine.types import silver_types
from lakejobs.freshness import causes
from lakejobs.freshness.domain_state import DomainState
from lakejobs.freshness.restated import RestatedDay
from lakejobs.freshness.runs import Run
from lakejobs.freshness.snapshots import inputs, is_fresh, moment, snapshots
from lakejobs.messages import LakeError, counted, few
from lakejobs.model import digest
from lakejobs.pages import data_docs
from lakejobs.pages.charts import Marks
from lakejobs.project import domains
from lakejobs.quality import suite
from lakejobs.storage import File, documents
from lakejobs.storage.layout import SILVER_GLOB
from lakejobs.tables import Table, broken_tables, domains_of, tables

SHOWN_DAYS = 10
"""Restated days that are shown at once; the page has the others too."""
MOST_SNAPSHOTS = 50
MOST_WARNINGS = 5
ORIGINS_VERSION = 2
"""Of what the cache of origins says."""


def publish(
    run: Run, facts: Mapping[str, Mapping[str, Any]], known: Mapping[str, str], visualiser: str
) -> dict[str, str]:
    """Write the pages whose facts changed, and remove those of tables that are no more.

    `facts`: by table. `known`: see `are_known`; returns the same of the new pages.
    `visualiser`: its URL. Requires the report's lock.
    """
    store, directory = run.lake.store, run.lake.table_pages
    store.sweep(directory)
    there = _sizes(run)
    template = data_docs.environment().get_template("table.html")
    pages = {}
    for name, shown in facts.items():
        made_from = digest([data_docs.looks("table.html", "macros.html"), shown])
        before, _, size = known.get(name, "").partition(":")
        if before != made_from or str(there.get(f"{name}.html")) != size:
            now = dt.datetime.now(dt.UTC)
            page = template.render(
                table=shown, made_at=now, style=data_docs.style(), visualiser=visualiser, shown_days=SHOWN_DAYS
            )
            documents.write_text(store, run.lake.table_page(name), page)
            size = str(len(page.encode()))
        pages[name] = f"{made_from}:{size}"
    for name in there.keys() - expected() - {run.lake.origins.rpartition("/")[2]}:
        store.remove(f"{directory}/{name}")
    return pages


def are_known(run: Run, known: Mapping[str, str]) -> bool:
    """Whether every table has a page, of the size that it was written with.

    `known`: by table, a hash of the facts that its page was made from, and its size in bytes.
    """
    there = _sizes(run)
    return {*known} == {*tables(), *broken_tables()} and all(
        str(there.get(f"{name}.html")) == page.partition(":")[2] for name, page in known.items()
    )


def _sizes(run: Run) -> dict[str, int]:
    return {file.name: file.size for file in run.lake.store.files(run.lake.table_pages)}


def expected() -> set[str]:
    """File names of the pages."""
    return {f"{name}.html" for name in (*tables(), *broken_tables())}


def unknown(run: Run, name: str, reason: str) -> dict[str, Any]:
    """What is shown of a table that is broken, or whose domain cannot be read."""
    about = {"description": tables()[name].description, "sql": tables()[name].sql} if name in tables() else {}
    kept = _kept(run.lake.snapshots(name))
    said = [reason, f"Its last snapshot, of {kept[0]['at']} UTC, can still be read"] if kept else [reason]
    return {"name": name, "state": "bad", "status": ["Not built", *said], "snapshots": kept, **about}


def facts_of(
    run: Run,
    table: Table,
    gold: Mapping[str, Any],
    by_domain: Mapping[str, Mapping[str, Any]],
    rows: Rows,
    origins: Origins,
) -> dict[str, Any]:
    """What is shown of a table, as JSON. `gold` and `by_domain`: the report's facts on it and on the domains."""
    seen: set[str] = set()
    days = []
    for day in gold["restated"]:
        days.append(asdict(day) | {"is_last": day.date not in seen})
        seen.add(day.date)
    return {
        "name": table.name,
        "state": "bad" if not gold["is_fresh"] else "warn" if gold["warnings"] else "good",
        "status": status(run, table, gold),
        "description": table.description,
        "grain": few(table.grain, 20),
        "charts": gold["charts"],
        "restated": days,
        "columns": columns(table, gold["statement"], rows, origins) if gold["rows"] is not None else [],
        "domains": [upstream(run.state(domain), by_domain[domain]) for domain in domains_of(table)],
        "snapshots": _kept(snapshots(run, table)),
        "sql": table.sql,
        "path": table.path,
    }


def _kept(found: Sequence[File]) -> list[dict[str, Any]]:
    """The last of a table's snapshots, the newest first."""
    return [
        {"name": file.name, "at": f"{moment(file.name):%Y-%m-%d %H:%M:%S}", "bytes": file.size}
        for file in reversed(found[-MOST_SNAPSHOTS:])
    ]


def status(run: Run, table: Table, gold: Mapping[str, Any]) -> list[str]:
    """The state of a table in sentences."""
    should = inputs(run, table)
    if gold["rows"] is None:
        return ["Not built yet", *_why(run, table, gold, should)]
    snapshot = f"Snapshot of {gold['made_at']:%Y-%m-%d %H:%M:%S} UTC, {counted(gold['rows'], 'row')}"
    snapshot += f", newest date {gold['newest_date']}" if gold["newest_date"] else ""
    if not gold["is_fresh"]:
        return [
            "Not up to date",
            *_why(run, table, gold, should),
            f"The figures are older: {snapshot[0].lower()}{snapshot[1:]}",
        ]
    made_from = [
        f"{counted(len(days), 'day')} of silver {name}" if name in domains() else f"gold {name}"
        for name, days in should.items()
    ]
    built = f"{snapshot}, built from {' and '.join(made_from)}"
    if gold["warnings"]:
        return ["Up to date, with warnings", built, *gold["warnings"][:MOST_WARNINGS]]
    return ["Up to date", built]


def _why(run: Run, table: Table, gold: Mapping[str, Any], should: dict[str, dict[str, str]]) -> list[str]:
    said = [*map(str, causes.of_gold(run, table, should)), *gold["due_below"]]
    read = [source.name for source in table.sources if source.name in tables()]
    said += [f"gold {name} is not up to date" for name in read if not is_fresh(run, tables()[name])]
    return said + [f"The last run failed: {reason}" for reason in gold["failed"]]


class Origins:
    """The origins of tables' columns, remembered in a cache: parsing SQL takes longer than the rest of a page."""

    def __init__(self, run: Run) -> None:
        self._store, self._path = run.lake.store, run.lake.origins
        self._known: dict[str, Any] = (documents.read_json(self._store, self._path) or {}).get("tables", {})
        self._loaded = dict(self._known)
        self._used: dict[str, Any] = {}

    def of(self, statement: str, sources: Mapping[str, Mapping[str, str]]) -> dict[str, Origin]:
        """By column, in lower case. `sources`: their columns and SQL types, by source."""
        key = digest([ORIGINS_VERSION, statement, sources])
        if key not in self._known:
            self._known[key] = {name: asdict(origin) for name, origin in lineage.origins(statement, sources).items()}
        self._used[key] = self._known[key]
        return {
            name.lower(): Origin(
                **one | {"columns": tuple(map(tuple, one["columns"])), "aggregates": tuple(one["aggregates"])}
            )
            for name, one in self._used[key].items()
        }

    def save(self) -> None:
        """Remember those that were asked for, and no others."""
        if self._used != self._loaded:
            documents.write_json(self._store, self._path, {"tables": self._used}, durable=False)


def columns(table: Table, statement: str, rows: Rows, origins: Origins) -> list[dict[str, Any]]:
    """The columns of a table's newest snapshot, and where each comes from by the SQL that computed it."""

    def described(name: str) -> dict[str, str]:
        return {str(column): str(kind) for column, kind, *_ in rows.rows(f"describe {name}")}

    sources = {}
    for source in table.sources:
        is_domain = source.name in domains()
        # While the tables are being built, a gold table that is read may have no snapshot.
        with contextlib.suppress(QueryError):
            sources[source.name] = silver_types(domains()[source.name]) if is_domain else described(source.name)
    known = origins.of(statement, sources) if len(sources) == len(table.sources) else {}
    return [
        {
            "name": name,
            "type": kind.lower(),
            "in_grain": name.lower() in table.grain,
            "origin": "when the snapshot was made" if name == GENERATED_AT else _origin(known.get(name.lower())),
            "note": _note(known.get(name.lower())),
        }
        for name, kind in described(table.name).items()
    ]


def _origin(origin: Origin | None) -> str:
    if origin is None:
        return "its SQL cannot be followed"
    read = few([f"{source}.{column}" for source, column in origin.columns], 20)
    if origin.is_aggregate:
        return f"{origin.aggregates[0]} of {read or 'rows'}"
    # A column may be a condition on what is added up, so it is not said which is.
    how = f" with {' and '.join(origin.aggregates)}" if origin.aggregates else ""
    return read if origin.is_same else f"computed from {read or 'rows'}{how}" if read or how else "a constant"


def _note(origin: Origin | None) -> str:
    """The description of the domain's column that it is."""
    if origin and origin.is_same:
        ((source, column),) = origin.columns
        if source in domains() and column in domains()[source].columns:
            return domains()[source].column(column).description
    return ""


def upstream(state: DomainState, known: Mapping[str, Any]) -> dict[str, Any]:
    """What a domain gives to its tables and keeps out: its rows and rules. `known`: the report's facts on it."""
    failures: Counter[str] = Counter()
    for footer in state.silver.values():
        failures.update(footer.counts.failures)
    rules: list[dict[str, Any]] = []
    trouble = None
    try:
        for rule in suite.load_suite(domains()[state.domain]).rules:
            notes = rule.content.get("notes") or ""
            rules.append(
                {
                    "code": rule.code,
                    "severity": rule.severity,
                    # Silver counts what it keeps out; a warning is counted by the validations only.
                    "rows": failures.pop(rule.code, 0) if rule.severity == "critical" else None,
                    "note": notes if isinstance(notes, str) else " ".join(notes),
                }
            )
    except LakeError as error:
        trouble = str(error)
    for code, found in sorted(failures.items()):
        note = data_docs.READING.get(code.partition(":")[0], "")
        rules.append({"code": code, "severity": "critical", "rows": found, "note": note})
    return {
        "name": state.domain,
        "trouble": trouble,
        "page": known["page"],
        "bronze": f"{counted(known['files'], 'file')}, {len(known['rejected']):,} rejected"
        + (f", the last landed {known['newest_landing']}" if known["newest_landing"] else ""),
        "partitions": counted(known["partitions"], "partition"),
        "silver": SILVER_GLOB.format(domain=state.domain),
        **{name: known[name] for name in data_docs.TOTALS},
        "rules": rules,
    }


def marks(restated: Sequence[RestatedDay]) -> Marks:
    """What the charts say of restated days."""
    found: dict[dt.date, list[str]] = {}
    for day in restated:
        cells = ", ".join(day.cells[:3]) + (f" and {day.count - 3:,} more" if day.count > 3 else "")
        said = f"changed after it was over, {day.at} UTC: {cells}, because {day.cause}"
        found.setdefault(dt.date.fromisoformat(day.date), []).append(said)
    return found
