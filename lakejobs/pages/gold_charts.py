"""A gold table's charts, by the SQL that reads its newest snapshot."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import Any

from lakejobs.engine import QueryError, Rows
from lakejobs.engine.sql import text
from lakejobs.messages import counted, few, log
from lakejobs.pages.charts import MOST_COLOURS, Marks, ranked, timelines
from lakejobs.tables import Chart, Table

MOST_GROUPS = 12
NOT_GIVEN = "(not given)"
OTHERS = "(others)"


def draw(table: Table, chart: Chart, rows: Rows, *, is_fresh: bool, marks: Marks) -> dict[str, Any] | None:
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
            if table.is_daily:
                return head | _over_time(chart, table.name, rows, marks)
            return head | _ranking(chart, table.name, rows)
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


def _over_time(chart: Chart, table: str, rows: Rows, marks: Marks) -> dict[str, Any]:
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
        "charts": timelines(first, last, names, values, stacked=chart.has_shares, marks=marks),
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
