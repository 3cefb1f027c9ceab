"""Which rows and columns of a source are behind a row and a column of a table, as far as the table's SQL tells.

The columns of a table's grain are followed through common table expressions and subqueries down to the columns of a
source. What cannot be followed (an aggregate, an expression over two sources, SQL that cannot be parsed) is left out,
so that a caller who selects rows by what was found selects too many rather than too few. Joins, windows and the like
may still make other rows matter: whether the selected rows give the table's row, computing it again decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROW = "s"
"""The name under which the expressions below know a row of the source."""


@dataclass(frozen=True)
class Grouping:
    """How the rows of one source belong to the rows of a table."""

    grain: Mapping[str, str]
    """Columns of the table's grain, and SQL over a row of the source that gives their values."""
    filters: tuple[str, ...] = ()
    """Conditions on a row of the source without which it counts nowhere."""
    is_exact: bool = False
    """Whether exactly the rows that pass the filters and have the grain's values are behind a row of the table."""


@dataclass(frozen=True)
class Origin:
    """Where a column of a table comes from."""

    columns: tuple[tuple[str, str], ...]
    """Sources and their columns, sorted. None for a constant, or a count of rows."""
    aggregates: tuple[str, ...]
    """The functions that took many rows together on the way, such as `count distinct` and `sum`, sorted."""
    is_same: bool
    """Whether it is the source's column, unchanged."""
    is_aggregate: bool = False
    """Whether it is the function of the column, or of the rows, and nothing else but rounded or of another type."""


class _UnknownError(Exception):
    """An expression that does not come from columns of a source alone."""


def groupings(statement: str, grain: Sequence[str], columns: Mapping[str, Mapping[str, str]]) -> Mapping[str, Grouping]:
    """What a table's SQL tells of each of its sources. `columns`: their names and SQL types, by source."""
    found: dict[str, dict[str, str]] = {source: {} for source in columns}
    root = _parsed(statement, columns)
    if root is None:
        return {source: Grouping({}) for source in columns}
    for name in grain:
        try:
            expression, sources = _resolved(_projection(root, name), root)
        except _UnknownError:
            continue
        if len(sources) == 1 and sources <= columns.keys():
            found[sources.pop()][name] = expression.sql(dialect="duckdb", comments=False)
    filters = _filters(root, {*found[next(iter(columns))].values()}) if len(columns) == 1 else None
    return {
        source: Grouping(known, tuple(filters or ()), filters is not None and len(known) == len(grain))
        for source, known in found.items()
    }


def origins(statement: str, columns: Mapping[str, Mapping[str, str]]) -> dict[str, Origin]:
    """The origin of each column of a table, in order, as far as its SQL can be followed.

    `columns`: as in `groupings`.
    """
    from sqlglot import exp
    from sqlglot.errors import SqlglotError
    from sqlglot.lineage import lineage

    found: dict[str, Origin] = {}
    root = _parsed(statement, columns)
    if root is None:
        return {}
    for name in root.expression.named_selects:
        try:
            nodes = list(lineage(name, root.expression, schema={}, scope=root, dialect="duckdb").walk())
        except (SqlglotError, ValueError, KeyError):
            continue
        leaves = [node for node in nodes if isinstance(node.expression, exp.Table)]
        from_sources = {(node.expression.name.lower(), node.name.rpartition(".")[2].strip('"')) for node in leaves}
        passed = [node.expression.unalias() for node in nodes if not isinstance(node.expression, exp.Table)]
        if any(passing.find(exp.Query, exp.Exists) for passing in passed):
            continue  # what a subquery within an expression reads is not followed
        done = [one for one in map(_bare, passed) if not isinstance(one, exp.Column)]
        aggregates = {_called(one) for passing in passed for one in passing.find_all(exp.AggFunc)}
        found[name] = Origin(
            tuple(sorted((source, column) for source, column in from_sources if source in columns)),
            tuple(sorted(aggregates)),
            len(from_sources) == 1 and all(isinstance(passing, exp.Column) for passing in passed),
            len(done) == 1 and isinstance(done[0], exp.AggFunc) and _is_of_one(done[0]),
        )
    return found


def _bare(expression: Any) -> Any:
    """An expression without the casts and the rounding around it."""
    from sqlglot import exp

    while isinstance(expression, exp.Cast | exp.Round | exp.Paren):
        expression = expression.this
    return expression


def _is_of_one(aggregate: Any) -> bool:
    """Whether a function takes nothing but a column, or rows."""
    from sqlglot import exp

    taken = aggregate.this
    if isinstance(taken, exp.Distinct) and len(taken.expressions) == 1:
        (taken,) = taken.expressions
    return isinstance(_bare(taken), exp.Column | exp.Star)


def _called(aggregate: Any) -> str:
    from sqlglot import exp

    distinct = " distinct" if isinstance(aggregate.this, exp.Distinct) else ""
    return f"{aggregate.sql_name().lower()}{distinct}"


def composed(outer: Mapping[str, str], inner: Mapping[str, str]) -> dict[str, str]:
    """Expressions over a gold table's rows as those over the rows of its source: `inner` has its columns, as far as
    they are known. Leaves out those that need another column."""
    import sqlglot
    from sqlglot import exp

    known = {name: sqlglot.parse_one(expression, dialect="duckdb") for name, expression in inner.items()}
    found = {}
    for name, expression in outer.items():
        tree = sqlglot.parse_one(expression, dialect="duckdb")
        if all(column.name in known for column in tree.find_all(exp.Column)):
            replaced = tree.transform(
                lambda node: exp.paren(known[node.name].copy()) if isinstance(node, exp.Column) else node
            )
            found[name] = replaced.sql(dialect="duckdb")
    return found


def _parsed(statement: str, columns: Mapping[str, Mapping[str, str]]) -> Any:
    """The scope of a query whose columns all name their relation; None if it cannot be parsed."""
    import sqlglot
    from sqlglot.optimizer.qualify import qualify
    from sqlglot.optimizer.scope import build_scope

    schema: dict[str, object] = {source: dict(known) for source, known in columns.items()}
    # SQL that the engine runs and this parser does not know can fail in many ways.
    with contextlib.suppress(Exception):
        return build_scope(qualify(sqlglot.parse_one(statement, dialect="duckdb"), schema=schema, dialect="duckdb"))
    return None


def _projection(scope: Any, name: str) -> Any:
    """The expression of an output column of a query."""
    from sqlglot import exp

    if isinstance(scope.expression, exp.Select):
        for selected in scope.expression.selects:
            if selected.alias_or_name.lower() == name.lower():
                return selected.unalias()
    raise _UnknownError


def _resolved(expression: Any, scope: Any) -> tuple[Any, set[str]]:
    """An expression over the columns of a scope as one over the columns of sources, and the names of these."""
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

    if expression.find(exp.AggFunc, exp.Window, exp.Query, exp.UDTF, exp.Explode):
        raise _UnknownError
    sources: set[str] = set()

    def replaced(node: Any) -> Any:
        if not isinstance(node, exp.Column):
            return node
        below = scope.sources.get(node.table)
        if isinstance(below, Scope):
            inner, more = _resolved(_projection(below, node.name), below)
            sources.update(more)
            return exp.paren(inner, copy=False)
        if not isinstance(below, exp.Table) or isinstance(below.this, exp.Func):
            raise _UnknownError
        sources.add(below.name.lower())
        return exp.column(node.name, table=ROW, quoted=True)

    return expression.copy().transform(replaced), sources


def _filters(root: Any, grain: set[str]) -> list[str] | None:
    """The conditions that a row of the only source has to pass; None if more than these decides whether it counts.

    `grain`: SQL of the grain's values over the source.
    """
    from sqlglot import exp
    from sqlglot.optimizer.scope import Scope

    if len([table for table in root.expression.find_all(exp.Table) if _is_source(table, root)]) != 1:
        return None
    found: list[str] = []
    is_grouped, scope = False, root
    while isinstance(scope, Scope):
        query: Any = scope.expression
        if not _is_simple(scope):
            return None
        # HAVING drops groups. It leaves the rows of the others alone only if each row of the table is one group.
        if query.args.get("having") and (is_grouped or not _group(scope) <= grain):
            return None
        is_grouped |= bool(query.args.get("group")) or any(selected.find(exp.AggFunc) for selected in query.selects)
        where = query.args.get("where")
        for part in (where.this.flatten() if isinstance(where.this, exp.And) else [where.this]) if where else []:
            try:
                found.append(_resolved(part, scope)[0].sql(dialect="duckdb", comments=False))
            except _UnknownError:
                return None
        ((_, scope),) = scope.selected_sources.values()
    return found


def _group(scope: Any) -> set[str]:
    """SQL over the source of what a query groups by; '' stands for what cannot be told."""
    from sqlglot import exp

    group, found = scope.expression.args.get("group"), set()
    if group is None:
        return set()
    by_all = [selected.unalias() for selected in scope.expression.selects if not selected.find(exp.AggFunc)]
    for expression in by_all if group.args.get("all") else group.expressions:
        try:
            found.add(_resolved(expression, scope)[0].sql(dialect="duckdb", comments=False))
        except _UnknownError:
            found.add("")
    return found


def _is_simple(scope: Any) -> bool:
    """Whether a query only filters, groups and projects the rows of one relation."""
    from sqlglot import exp

    query: Any = scope.expression
    if not isinstance(query, exp.Select) or len(scope.selected_sources) != 1 or scope.subquery_scopes:
        return False
    parts = ("distinct", "limit", "offset", "qualify", "joins", "laterals", "pivots", "sample", "connect")
    ((node, _),) = scope.selected_sources.values()
    group = query.args.get("group")
    return not (
        (group and group.find(exp.Cube, exp.Rollup, exp.GroupingSets))
        or any(query.args.get(part) for part in parts)
        or any(selected.find(exp.Window, exp.UDTF, exp.Explode) for selected in query.selects)
        or any(node.args.get(part) for part in ("joins", "laterals", "pivots", "sample"))
    )


def _is_source(table: Any, root: Any) -> bool:
    """Whether a table is none of the query's own common table expressions."""
    from sqlglot import exp

    own = {one.alias.lower() for one in root.expression.find_all(exp.CTE)}
    return table.name.lower() not in own
