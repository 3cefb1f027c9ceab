"""From delivered text to typed rows: the SQL of bronze and silver, in what DuckDB and Spark share.

A pattern guards every cast, because engines disagree on what they accept (`5.7` as a whole number, `0x10`, `1_000`,
`5d`): text that does not match becomes NULL, is kept in `rescued_data`, and makes the row invalid.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Sequence

from lakejobs.engine import Reading, types
from lakejobs.model import MOST_DIGITS, Column, Domain

WHOLE = "^[+-]?0*[0-9]{1,15}([.]0*)?$"
NUMBER = "^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,3})?$"
HARMLESS = {"range", "generate_series", "unnest"}
"""Functions that make rows from their arguments alone."""
TOO_LARGE = "1e15"
"""Larger numbers lose cents in a double, and their sums overflow a decimal."""

DATE = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
TIME = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
ZONE = " ?(Z|UTC|[+-]([01][0-9]|2[0-3])(:?[0-5][0-9])?)$"

MALFORMED = "MALFORMED_LINE"
TYPE = "TYPE"
OUT_OF_RANGE = "OUT_OF_RANGE"
READING = (MALFORMED, TYPE, OUT_OF_RANGE)
"""How the codes that come from reading begin."""


def text(value: str) -> str:
    """A string as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def relations_read(query: str) -> set[str] | None:
    """Names of the relations that a query reads, in lower case, and of functions that may read files; None if it cannot
    be parsed."""
    import sqlglot
    from sqlglot.optimizer.scope import traverse_scope

    try:
        scopes = traverse_scope(sqlglot.parse_one(query, dialect="duckdb"))
    except sqlglot.errors.SqlglotError:
        return None
    sources = [source for scope in scopes for source in scope.sources.values()]
    tables = [source for source in sources if isinstance(source, sqlglot.exp.Table)]
    called = [table.this for table in tables if isinstance(table.this, sqlglot.exp.Func)]
    functions = {call.name if isinstance(call, sqlglot.exp.Anonymous) else call.sql_name() for call in called}
    names = {table.name for table in tables if not isinstance(table.this, sqlglot.exp.Func)}
    return {name.lower() for name in names | functions if name} - HARMLESS


def partition_dates(reading: Reading) -> str:
    """Query over `delivered`: file_number, is_malformed, and the partition_date of every record."""
    return (
        f"select file_number, malformed is not null as is_malformed, partition_date from ({_dated(reading)}) as dated"
    )


def typed_rows(reading: Reading) -> str:
    """Query over `delivered`: every record typed, rescued and corrected.

    Columns: file_number, source_record, partition_date, event_time_ (NULL if not usable), is_malformed, the domain's
    columns, each correction's `difference`, and type_errors (codes), corrections and rescued_data: NULL if there are
    none.
    """
    domain = reading.domain
    corrected = {correction.column for correction in domain.corrections}
    typed = [name for name, kind in domain.columns.items() if kind != "text"]
    wrong = [
        f"{correction.column}_expected is not null and ({correction.column} is null "
        f"or abs({correction.difference}) > {correction.tolerance}) as {correction.column}_is_wrong"
        for correction in domain.corrections
    ]
    values = [
        f"case when {name}_is_wrong then {name}_expected else {name} end as {name}" if name in corrected else name
        for name in domain.columns
    ]
    errors = [
        f"case when is_malformed then '{MALFORMED}' end",
        *(f"case when {name}_text is not null and {name} is null then '{TYPE}:{name}' end" for name in typed),
        f"case when {domain.event_time} is not null and event_time_ is null "
        f"then '{OUT_OF_RANGE}:{domain.event_time}' end",
        *(
            f"case when {correction.column}_expected is null and ({correction.expression}) is not null "
            f"then '{OUT_OF_RANGE}:{correction.column}' end"
            for correction in domain.corrections
        ),
    ]
    # As `stored_rows` reads it again.
    reported = [
        f"""case when {name}_is_wrong then '"{name}": ' || coalesce(json_text({_number(reading, name)}), 'null') end"""
        for name in domain.columns
        if name in corrected
    ]
    rescued = [
        """'"_line": ' || json_text(malformed)""",
        *(f"""case when {name} is null then '"{name}": ' || json_text({name}_text) end""" for name in typed),
        "extra",
    ]
    rows = _compared(domain, _dated(reading))
    if wrong:
        rows = f"select *, {', '.join(wrong)} from ({rows}) as layer"
    return (
        f"select file_number, source_record, partition_date, event_time_, is_malformed, {', '.join(values)}, "
        f"{''.join(f'{correction.difference}, ' for correction in domain.corrections)}"
        f"nullif(concat_ws('; ', {', '.join(errors)}), '') as type_errors, "
        f"{_json_object(reported)} as corrections, {_json_object(rescued)} as rescued_data "
        f"from ({rows}) as corrected"
    )


def stored_rows(reading: Reading) -> str:
    """Query over `stored_`, rows of silver and their row_number_ and partition_date: these rows as `typed_rows` had
    them, and `codes` of the suite's rules.

    Requires that no rule has a code which begins like one from reading, see `READING`.
    """
    domain = reading.domain
    code = f"({MALFORMED}|({TYPE}|{OUT_OF_RANGE}):[a-z0-9_]+)"
    no_time = f"(^|; ){OUT_OF_RANGE}:{domain.event_time}(;|$)"
    found = f"nullif(regexp_extract(validation_errors, '^{code}(; {code})*', 0), '')"
    kept = ["row_number_", "partition_date", "source_file", "source_record", "corrections", "rescued_data"]
    corrected = {correction.column for correction in domain.corrections}
    columns, reported = [], []
    for name, kind in domain.columns.items():
        if name in corrected:
            member, value = text(f'"{name}": '), typed_value(reading, f"json_member(corrections, {text(name)})", kind)
            columns.append(f"{name}_stored_ as {name}")
            reported.append(f"{name} as {name}_stored_")
            reported.append(f"case when instr(corrections, {member}) > 0 then {value} else {name} end as {name}")
        else:
            columns.append(name)
            reported.append(name)
    rows = f"select {', '.join(kept)}, validation_errors, {found} as type_errors, {', '.join(reported)} from stored_"
    rows = _compared(domain, rows)
    return (
        f"select {', '.join(kept)}, type_errors, coalesce(type_errors = '{MALFORMED}', false) as is_malformed, "
        f"case when type_errors is null or not regexp_like(type_errors, '{no_time}') then {domain.event_time} end "
        f"as event_time_, {', '.join(columns)}, "
        f"{''.join(f'{correction.difference}, ' for correction in domain.corrections)}"
        "case when type_errors is null then validation_errors "
        "else nullif(substr(validation_errors, length(type_errors) + 3), '') end as codes "
        f"from ({rows}) as compared"
    )


def _compared(domain: Domain, rows: str) -> str:
    """A query's rows, and for each correction the expected value and the `difference` of the reported one from it."""
    expected, difference = [], []
    for correction in domain.corrections:
        column = correction.column
        kind = domain.column(column)
        if kind == "number":
            # By way of text, because a direct cast of a large amount loses cents.
            product = f"cast(cast({correction.expression} as string) as double)"
            computed = f"case when abs({product}) < {TOO_LARGE} then {product} end"
            amounts = [f"cast(cast({name} as string) as decimal(30, 15))" for name in (column, f"{column}_expected")]
            exact = " - ".join(amounts)
        else:
            computed = f"try_cast({correction.expression} as {kind})"
            exact = f"{column} - {column}_expected"
            if kind.digits == MOST_DIGITS:
                # The difference may need one digit more than a decimal has.
                exact = f"round(cast({column} as double) - cast({column}_expected as double), 6)"
        if correction.holds:
            computed = f"case when {correction.holds} then {column} else {computed} end"
        expected.append(f"{computed} as {column}_expected")
        # The short cut saves the exact way, which is dear, for most rows.
        difference.append(
            f"case when {column} = {column}_expected then cast(0 as double) "
            f"else cast(cast({exact} as string) as double) end as {correction.difference}"
        )
    for layer in (expected, difference):
        if layer:
            rows = f"select *, {', '.join(layer)} from ({rows}) as layer"
    return rows


def superseded_rows(domain: Domain) -> str:
    """Query over `rivals_`, the rows whose key occurs more than once on a date: row_number_ and partition_date of the
    superseded ones.

    Columns of `rivals_`: row_number_, partition_date, key_ (a number for each date and key), event_time_, delivery_ and
    source_record. Of the rows with the same date and key, the one with the latest timestamp is kept, unless the domain
    says that the delivery alone decides, then the one from the later delivery, then the later record.
    """
    latest = "event_time_ desc nulls last, " if domain.winner == "timestamp" else ""
    return (
        "select row_number_, partition_date from ("
        "select row_number_, partition_date, row_number() over (partition by key_ "
        f"order by {latest}delivery_ desc, source_record desc) as place "
        "from rivals_) as ranked where place > 1"
    )


def judged_rows(domain: Domain) -> str:
    """Query over `judged_`, rows with the codes of the suite's rules: the rows of silver, their partition_date and
    delivery_, without `processed_at`."""
    errors = (
        "coalesce(nullif(concat_ws('; ', type_errors, codes), ''), "
        f"case when event_time_ is null then 'NULL:{domain.event_time}' end)"
    )
    return (
        f"select partition_date, delivery_, {', '.join(domain.columns)}, validation_errors is null as is_valid, "
        "validation_errors, corrections, rescued_data, source_file, source_record from ("
        f"select *, {errors} as validation_errors from judged_) as judged"
    )


def hashes(reading: Reading) -> dict[str, str]:
    """Hashes of all SQL that determines the rows of silver. They change with the domain and the settings."""
    domain = reading.domain
    reading = dataclasses.replace(reading, marks=())
    queries = {
        "typed": typed_rows(reading),
        "superseded": f"{', '.join(domain.keys)}\n{superseded_rows(domain)}",
        "judged": judged_rows(domain),
    }
    return {name: hashlib.sha256(query.encode()).hexdigest()[:32] for name, query in queries.items()}


def _json_object(members: Sequence[str]) -> str:
    if not members:
        return "cast(null as string)"
    return f"'{{' || nullif(concat_ws(', ', {', '.join(members)}), '') || '}}'"


def _dated(reading: Reading) -> str:
    """`delivered` with blanks trimmed, types applied, and the partition of each record.

    The trimmed text of a typed column is kept as `<column>_text`.
    """
    domain, time = reading.domain, reading.domain.event_time
    trimmed, typed = [], []
    for name, kind in domain.columns.items():
        # Three comparisons are far cheaper than a trim, and few values need one.
        has_blanks = f"{name} < '!' or {name} like '% ' or {name} like '%\t'"
        value = f"case when {has_blanks} then nullif(btrim({name}, ' \t'), '') else {name} end"
        if kind == "text":
            trimmed.append(f"{value} as {name}")
        else:
            trimmed.append(f"{value} as {name}_text")
            typed.append(f"{typed_value(reading, _number(reading, name), kind)} as {name}")
    usable = (
        f"{time} >= cast(date '{reading.earliest_date}' as timestamp) "
        f"and {time} < cast(latest_date as timestamp) + interval '1' day"
    )
    rows = (
        "select file_number, source_record, landing_date, latest_date, malformed, "
        f"malformed is not null as is_malformed, extra, {'marks_, ' if reading.marks else ''}"
        f"{', '.join(trimmed)} from delivered"
    )
    if numbers := _usual_numbers(reading):
        rows = f"select *, {', '.join(numbers)} from ({rows}) as written"
    return (
        "select *, coalesce(cast(event_time_ as date), landing_date) as partition_date from ("
        f"select *, case when {usable} then {time} end as event_time_ from ("
        f"select *, {', '.join(typed)} from ({rows}) as trimmed) as typed) as ranged"
    )


def _number(reading: Reading, name: str) -> str:
    """The text of a column as `typed_value` reads it; what does not fit a number stays as it is."""
    return f"{name}_number_" if reading.marks and _is_number(reading.domain.column(name)) else f"{name}_text"


def _is_number(kind: Column) -> bool:
    return kind in ("integer", "number") or kind.digits > 0


def _usual_numbers(reading: Reading) -> list[str]:
    """The text of each number with the usual marks; NULL if it is not written with the file's own."""
    found = []
    for name in reading.domain.columns if reading.marks else ():
        if _is_number(reading.domain.column(name)):
            value = f"{name}_text"
            cases = " ".join(f"when {text(marks)} then {_usual(value, marks)}" for marks in reading.marks)
            found.append(f"case marks_ {cases} else {value} end as {name}_number_")
    return found


def _usual(value: str, marks: str) -> str:
    """A number's text with a decimal point and no thousands marks; NULL if it is not written with these marks."""
    decimal, thousands = re.escape(marks[0]), marks[1:]
    # What spreadsheets write between thousands may be a no-break space, narrow or not.
    between = "[ \u00a0\u202f]" if thousands == " " else f"[{thousands}]" if thousands else ""
    whole = f"([0-9]+|[0-9]{{1,3}}({between}[0-9]{{3}})+)" if thousands else "[0-9]+"
    form = f"^[+-]?({whole}({decimal}[0-9]*)?|{decimal}[0-9]+)([eE][+-]?[0-9]{{1,3}})?$"
    plain = f"regexp_replace({value}, {text(between)}, '', 'g')" if thousands else value
    return f"case when regexp_like({value}, {text(form)}) then replace({plain}, {text(marks[0])}, '.') end"


def typed_value(reading: Reading, value: str, kind: str) -> str:
    """SQL that turns trimmed text into a column's type, and text that does not fit into NULL."""
    if kind == "integer":
        # A value that survives the cast there and back needs no pattern.
        whole = f"try_cast({value} as bigint)"
        return (
            f"case when length({value}) < 16 and cast({whole} as string) = {value} then {whole} "
            f"when regexp_like({value}, '{WHOLE}') then cast(try_cast({value} as decimal(38, 1)) as bigint) end"
        )
    if kind == "number":
        number = f"try_cast({value} as double)"
        return f"case when regexp_like({value}, '{NUMBER}') and abs({number}) < {TOO_LARGE} then {number} end"
    if kind != "timestamp":
        return types.typed(value, kind)
    return _timestamp(value, reading.timestamp_formats)


def _timestamp(value: str, formats: Sequence[str]) -> str:
    """A timestamp in UTC, truncated to microseconds."""
    # Engines differ in how they cast text with an offset, so the offset is removed first.
    local = f"try_cast(substr(regexp_replace({value}, '{ZONE}', ''), 1, 26) as timestamp)"
    offset = f"replace(regexp_extract({value}, '[+-][0-9:]+$', 0), ':', '')"
    hours = f"cast(coalesce(nullif(substr({offset}, 2, 2), ''), '0') as integer)"
    minutes = f"cast(coalesce(nullif(substr({offset}, 4, 2), ''), '0') as integer)"
    sign = f"case when substr({offset}, 1, 1) = '-' then 1 else -1 end"
    others = "".join(
        f" when try_strptime({value}, {text(form)}) is not null "
        f"then cast(try_strptime({value}, {text(form)}) as timestamp)"
        for form in formats
    )
    return (
        # Readers in Python cannot hold years before 1 and after 9999.
        f"case when {value} like '0000%' then null "
        f"when regexp_like({value}, '^{DATE}([T ]{TIME})?$') then try_cast(substr({value}, 1, 26) as timestamp) "
        f"when {value} like '0001-01-01%' or {value} like '9999-12-31%' then null "
        f"when regexp_like({value}, '^{DATE}[T ]{TIME}{ZONE}') "
        f"then {local} + ({sign}) * ({hours} * 60 + {minutes}) * interval '1' minute{others} end"
    )
