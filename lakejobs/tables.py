"""Gold tables, as their SQL files declare them.

A file begins with its grain and its sources, each a domain or another gold table:

    -- grain: date, product_id
    -- sources: sales, inventory, product_prices (all days)
    -- One row per …

The comment, up to an empty line or the SQL, describes the table in the report. It may declare charts, one a line: a
column by groups, or several named columns, and a note. A table with a date is charted over time, any other as its
highest and lowest rows.

    -- chart with shares: Revenue by category | revenue by category or category_id | Without returns.
    -- chart: Orders | all: orders, with gifts: orders_with_gifts

With shares, the values are parts of a whole: they are added up and stacked, and shown in percent of their sum. Others
are never added up: over time, the average of the rows stands for a group and period.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from lakejobs.messages import LakeError, few
from lakejobs.model import RESERVED, digest
from lakejobs.project import broken_domains, domains, table_sources

HEADER = re.compile(
    r"-- grain: (?P<grain>[a-z0-9_, ]+?)[ ]*\n-- sources?: (?P<sources>[a-z0-9_, ()]+?)[ ]*\n", re.IGNORECASE
)
CHART = re.compile(r"^-- chart(?P<how> +with\b[^:|\n]*)?:(?P<what>.*)$", re.MULTILINE | re.IGNORECASE)
HEADERS = ("grain", "source", "sources", "chart", "chart with totals", "chart with shares")
HEADER_LIKE = re.compile(r"\s*--\s*(?P<name>[a-z]{3}[^:|]*):", re.IGNORECASE)
WITHOUT_COLON = re.compile(r"\s*--\s*chart\b[^:|]*\|", re.IGNORECASE)
COLUMN = r"[a-z][a-z0-9_]*"
BY = re.compile(rf"({COLUMN}) +by +({COLUMN}(?: +or +{COLUMN})*(?: *, *{COLUMN}(?: +or +{COLUMN})*)*)", re.IGNORECASE)
NAMED = re.compile(rf"([^:]+?) *: *({COLUMN})", re.IGNORECASE)
SOURCE = re.compile(r"(?P<name>[a-z0-9_]+)(?P<all_days> *\( *all +days *\))?", re.IGNORECASE)
# Quoted text matches as a whole, so that nothing in it passes for a comment.
CODE = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$"""
    r"""|(?P<nothing>(?:\s|--[^\n]*|/\*.*?\*/)+)""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Source:
    """A name that a table's SQL reads: a domain's valid rows, or another gold table."""

    name: str
    all_days: bool = False
    """Whether each day of a daily table sees all days of this source, instead of that day's rows only."""


@dataclass(frozen=True)
class Chart:
    """How the report charts a table."""

    title: str
    line: int
    """Where its file declares it."""
    series: tuple[tuple[str, str], ...]
    """Names and columns. The name is empty if `by` provides it."""
    by: tuple[tuple[str, ...], ...] = ()
    """Columns whose values together name a group, each followed by its fallbacks for NULL."""
    note: str = ""
    adds_up: bool = False
    """Whether sums of the values over time mean something."""
    has_shares: bool = False
    """Whether the values are parts of a whole; then they also add up."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns it names."""
        return tuple(
            dict.fromkeys([*(column for _, column in self.series), *(one for group in self.by for one in group)])
        )


@dataclass(frozen=True)
class Table:
    """A gold table."""

    name: str
    path: str
    """Path of its SQL file, as messages show it."""
    grain: tuple[str, ...]
    sources: tuple[Source, ...]
    sql: str
    charts: tuple[Chart, ...] = ()

    @property
    def hash(self) -> str:
        """Changes with the grain, the sources and the SQL, but not with comments or white space."""
        code = CODE.sub(lambda found: " " if found["nothing"] else found[0], self.statement)
        return digest([self.grain, [[source.name, source.all_days] for source in self.sources], code.strip()])

    @property
    def description(self) -> str:
        """The comment below the first two lines, up to an empty line or the SQL, without its charts."""
        lines = []
        for line in self.sql.splitlines()[2:]:
            if not line.startswith("--"):
                break
            if not CHART.match(line):
                lines.append(line.removeprefix("--").strip())
        return " ".join(lines).strip()

    @property
    def statement(self) -> str:
        """The SQL without the final semicolon."""
        return self.sql.rstrip().rstrip(";")

    @property
    def is_daily(self) -> bool:
        """Whether it has rows by day, so that each day can be computed on its own."""
        return "date" in self.grain

    @property
    def is_by_day(self) -> bool:
        """Whether only the days that changed are computed."""
        return self.is_daily and any(source.name in domains() and not source.all_days for source in self.sources)


def tables() -> Mapping[str, Table]:
    """Every gold table by name, except those that are broken or read something broken."""
    return _parsed()[0]


def broken_tables() -> Mapping[str, str]:
    """What is wrong with the other tables, by table name."""
    return _parsed()[1]


def broken_sources(table: str) -> tuple[str, ...]:
    """The broken domains and tables that one of the other tables reads; none if its own file is broken."""
    return _parsed()[2].get(table, ())


def _parsed() -> tuple[Mapping[str, Table], Mapping[str, str], Mapping[str, tuple[str, ...]]]:
    return parse_tables(read_sql(), tuple(domains()), tuple(broken_domains()))


def broken_sql() -> dict[str, str]:
    """The text of the broken SQL files, by table name."""
    return {name: text for name, _, text in read_sql() if name in broken_tables()}


def read_sql() -> tuple[tuple[str, str, str], ...]:
    """Name, path and text of every SQL file."""
    return table_sources()


@cache
def parse_tables(
    sql: tuple[tuple[str, str, str], ...], domains: tuple[str, ...], broken_domains: tuple[str, ...] = ()
) -> tuple[Mapping[str, Table], Mapping[str, str], Mapping[str, tuple[str, ...]]]:
    """The tables that SQL files declare, each after those it reads; what is wrong with the others; and the broken
    sources of those that are not broken themselves."""
    found: dict[str, Table] = {}
    broken: dict[str, str] = {}
    paths: dict[str, str] = {}
    for name, path, text in sql:
        if name in RESERVED.split():
            broken[name] = f"{path}: {name} is a word of SQL, which cannot name a table; rename the file"
            continue
        if name in domains:
            broken[name] = f"{path}: there is a domain {name}; rename the table"
            continue
        if (first := paths.setdefault(name, path)) != path:
            found.pop(name, None)
            broken[name] = f"{first} and {path} both define the gold table {name}; rename one of them"
            continue
        try:
            found[name] = _declared(name, path, text)
        except LakeError as error:
            broken[name] = str(error)
    known = {*domains, *found, *broken, *broken_domains}
    for table in [*found.values()]:
        if unknown := [source.name for source in table.sources if source.name not in known]:
            what = f"its source {unknown[0]} is" if len(unknown) == 1 else f"its sources {few(unknown)} are"
            others = few(sorted({*domains, *found} - {table.name}), 20)
            hint = f"; expected one of {others}" if others else ""
            broken[table.name] = f"{table.path}: {what} neither a domain nor a gold table{hint}"
            del found[table.name]
    made: dict[str, Table] = {}
    waiting: dict[str, tuple[str, ...]] = {}
    while found:
        good = {*domains, *made}
        bad = {*broken_domains, *broken} - good
        ready = [table for table in found.values() if {source.name for source in table.sources} <= good | bad]
        for table in ready:
            del found[table.name]
            if lacking := tuple(source.name for source in table.sources if source.name in bad):
                what = f"its source {lacking[0]} is" if len(lacking) == 1 else f"its sources {few(lacking)} are"
                waiting[table.name], broken[table.name] = lacking, f"{table.path}: {what} broken"
            else:
                made[table.name] = table
        if not ready:
            # One table of a cycle is broken; the others wait for it.
            cycle = _cycle(found)
            chain = ", ".join(f"{name} reads {read}" for name, read in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
            table = found.pop(cycle[0])
            broken[table.name] = (
                f"{table.path} reads itself; remove {table.name} from its sources"
                if len(cycle) == 1
                else f"{table.path}: gold tables read each other in a cycle: {chain}; remove one of these sources"
            )
    return made, broken, waiting


def _declared(name: str, path: str, text: str) -> Table:
    """The table that a file declares. Raises LakeError."""
    try:
        _refuse_misspelt_headers(text)
        header = HEADER.match(text)
        sources = [SOURCE.fullmatch(part.strip()) for part in header["sources"].split(",")] if header else []
        if not header or not all(sources):
            raise LakeError(f"{path} does not begin with the lines '-- grain: …' and '-- source: …'")
        grain = tuple(column.strip().lower() for column in header["grain"].split(","))
        named = tuple(Source(one["name"].lower(), bool(one["all_days"])) for one in sources if one)
        return Table(name, path, grain, named, text, _charts(text, "date" in grain))
    except ValueError as error:
        raise LakeError(f"{path}, {error}") from None


def _cycle(found: Mapping[str, Table]) -> list[str]:
    """Names of tables that each read the next, and the last the first, among tables that each read another of them."""
    walk: list[str] = [next(iter(found))]
    while walk.count(walk[-1]) == 1:
        walk.append(next(source.name for source in found[walk[-1]].sources if source.name in found))
    return walk[walk.index(walk[-1]) : -1]


def _refuse_misspelt_headers(text: str) -> None:
    """Raise ValueError, with the line, if a comment above the SQL is almost a header. It would be ignored."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip().startswith("--"):
            return
        if WITHOUT_COLON.match(line):
            raise ValueError(f"line {number}: the colon after 'chart' is missing: {line.strip()!r}")
        found = HEADER_LIKE.match(line)
        if not found or CHART.match(line):
            continue
        name = found["name"].strip()
        # Prose often begins with words that are less close, such as part or course.
        close = difflib.get_close_matches(name.lower(), HEADERS, 1, 0.8)
        if close and name.lower() not in ("grain", "source", "sources"):
            raise ValueError(f"line {number}: unknown header '{found[0].strip()}'; did you mean '-- {close[0]}: …'?")


def _charts(text: str, is_daily: bool) -> tuple[Chart, ...]:
    """The charts that a file declares. Raises ValueError with the line that cannot be parsed."""
    charts = []
    for found in CHART.finditer(text):
        line = text[: found.start()].count("\n") + 1
        how = (found["how"] or "").lower().split()
        title, _, rest = (part.strip() for part in found["what"].partition("|"))
        columns, _, note = (part.strip() for part in rest.partition("|"))
        by: tuple[tuple[str, ...], ...] = ()
        if grouped := BY.fullmatch(columns):
            series: tuple[tuple[str, str], ...] = (("", grouped[1].lower()),)
            by = tuple(tuple(re.split(r" +or +", part.strip().lower())) for part in grouped[2].split(","))
        else:
            named = [NAMED.fullmatch(part.strip()) for part in columns.split(",")] if is_daily else []
            series = tuple((one[1], one[2].lower()) for one in named if one) if all(named) else ()
        if not title or not series or how not in ([], ["with", "totals"], ["with", "shares"]):
            raise ValueError(
                f"line {line}: expected '-- chart: TITLE | COLUMN by COLUMN | NOTE' or, with date in the grain, "
                "'-- chart: TITLE | NAME: COLUMN, NAME: COLUMN | NOTE'; or '-- chart with totals: …' if the values add "
                f"up over time, '-- chart with shares: …' if they are parts of a whole; got {found[0]!r}"
            )
        charts.append(Chart(title, line, series, by, note, bool(how), how == ["with", "shares"]))
    return tuple(charts)


def domains_of(table: Table) -> tuple[str, ...]:
    """The domains a table is built from, directly or through other tables; that of its first source first."""
    found: dict[str, None] = {}
    for source in table.sources:
        names = (source.name,) if source.name in domains() else domains_of(tables()[source.name])
        found |= dict.fromkeys(names)
    return tuple(found)
