"""Compare Great Expectations' verdicts on millions of rows with the same rules, written again by hand in SQL.

Nothing here uses the suites or the lake's own SQL. The rows are drawn in SQL too. A tenth of every column is missing,
odd or wrong, so that all rules fail often, alone and together.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from torture.lakes import Place, Row, Workshop, ask, say
from torture.scenarios import DAY

# How to draw each column: a good value, and the bad values for a tenth of the rows.
PRICE = "printf('%.2f', 1 + {r} % 9000 / 100.0)"
MOMENT = "strftime(timestamp '2026-10-29' + to_seconds({r} % 259200), '%Y-%m-%dT%H:%M:%S')"
BAD_NUMBERS = ["", " ", "two", "0", "-3", "1e3", "1.5", "0x10", "nan", "1_000", "7.0", "+4", " 5 ", "99999999999999999"]
BAD_MOMENTS = [
    "",
    "soon",
    "2026-13-01",
    "1969-12-31",
    "2026-10-30 10:00",
    "2026-10-30T10:00:00Z",
    "9999-12-31T00:00:00",
]
DRAWN = {
    "sales": {
        "sale_id": ("'S' || {n}", ["", "  "]),
        "timestamp": (MOMENT, BAD_MOMENTS),
        "customer_id": ("'C' || {r} % 2000", ["", " "]),
        "product_id": ("'P' || {r} % 200", [""]),
        "product_name": ("'Lamp'", [""]),
        "category": ("'Home'", [""]),
        "quantity": ("cast(1 + {r} % 9 as varchar)", BAD_NUMBERS),
        "unit_price": (PRICE, BAD_NUMBERS),
        "total_amount": (PRICE, BAD_NUMBERS),
        "payment_method": ("'card'", [""]),
        "status": ("'completed'", ["", "refunded"]),
    },
    "customer_events": {
        "event_id": ("'E' || {n}", ["", "  "]),
        "timestamp": (MOMENT, BAD_MOMENTS),
        "customer_id": ("'C' || {r} % 2000", ["", " "]),
        "session_id": ("'S' || {r} % 500", [""]),
        "event_type": (
            "['login', 'browse', 'add_to_cart', 'checkout', 'logout'][1 + {r} % 5]",
            ["", "UNKNOWN", "Login", " login ", "logout,"],
        ),
        "product_id": ("'P' || {r} % 200", [""]),
        "page_url": ("'/p'", [""]),
        "device_type": ("'mobile'", [""]),
    },
    "inventory": {
        "movement_id": ("'M' || {n}", ["", "  "]),
        "timestamp": (MOMENT, BAD_MOMENTS),
        "product_id": ("'P' || {r} % 200", [""]),
        "product_name": ("'Lamp'", [""]),
        "warehouse_id": ("'W' || {r} % 5", ["", "\t"]),
        "movement_type": ("['inbound', 'outbound', 'adjustment'][1 + {r} % 3]", ["", "TRANSFER", "Inbound", "out"]),
        "quantity": ("cast(1 + {r} % 99 as varchar)", BAD_NUMBERS),
        "unit_cost": (PRICE, BAD_NUMBERS),
        "supplier_id": ("'SUP1'", [""]),
    },
}

# The rules by hand. `c` is a column's text without surrounding blanks, NULL if it is empty.
IS_WHOLE = (
    "regexp_full_match({c}, '[-+]?[0-9]+([.]0*)?') and length(ltrim(split_part(ltrim({c}, '+-'), '.', 1), '0')) <= 15"
)
IS_NUMBER = (
    "regexp_full_match({c}, '[-+]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?') "
    "and abs(try_cast({c} as double)) < 1e15"
)
MOMENT_OF = "try_cast(replace({c}, 'Z', '') as timestamp)"
IS_MOMENT = (
    "regexp_full_match({c}, '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ][0-9:]+([.][0-9]+)?Z?)?') "
    "and try_cast(replace({c}, 'Z', '') as timestamp) is not null"
)

TYPES = {
    "sales": {"timestamp": IS_MOMENT, "quantity": IS_WHOLE, "unit_price": IS_NUMBER, "total_amount": IS_NUMBER},
    "customer_events": {"timestamp": IS_MOMENT},
    "inventory": {"timestamp": IS_MOMENT, "quantity": IS_WHOLE, "unit_cost": IS_NUMBER},
}
REQUIRED = {
    "sales": ["sale_id", "timestamp", "customer_id", "product_id", "quantity", "unit_price", "total_amount"],
    "customer_events": ["event_id", "timestamp", "customer_id", "session_id", "event_type"],
    "inventory": ["movement_id", "timestamp", "product_id", "warehouse_id", "movement_type", "quantity"],
}
OTHERS = {
    "sales": [],
    "customer_events": [
        (
            "INVALID_EVENT_TYPE",
            "event_type is not null and event_type not in ('login', 'browse', 'add_to_cart', 'checkout', 'logout')",
        )
    ],
    "inventory": [
        (
            "INVALID_MOVEMENT_TYPE",
            "movement_type is not null and movement_type not in ('inbound', 'outbound', 'adjustment')",
        ),
        ("NON_POSITIVE_QUANTITY", "quantity_ok and try_cast(quantity as double) < 1"),
    ],
}


def agreement(short: bool, seed: int) -> Iterator[Row]:
    """Compare a million rows at a time, domain by domain."""
    rows, chunks = (7_000, 1) if short else (1_000_000, 3)
    for domain in DRAWN:
        row = Row(f"rows of {domain} whose verdicts were compared with rules in SQL", seed)
        # One more for sales, to make ten million rows in all.
        for chunk in range(chunks + (not short and domain == "sales")):
            with Workshop() as workshop:
                place = workshop.new().create()
                draw_generated = not short and chunk == 0
                if draw_generated:
                    place.generate(DAY, rows, [domain])
                else:
                    ask(draw, str(place.root), domain, rows, seed * 1000 + chunk)
                code = place.run("DomainSilver", "--domain", domain, timeout=600)
                if code:
                    row.add([f"the run ended with {code}: {place.said()[-1000:]}"])
                    continue
                compared, wrong = ask(compare, str(place.root), domain, timeout=600)
                row.add(wrong, compared)
                if compared < rows:
                    row.violations.append(f"only {compared:,} of {rows:,} rows are in silver")
                say(f"    {domain}: {compared:,} rows compared")
        yield row


def draw(root: str, domain: str, rows: int, seed: int) -> None:
    """Write a file of drawn rows."""
    columns = []
    for place, (name, (good, bad)) in enumerate(DRAWN[domain].items()):
        r = f"cast(hash(range, {seed}, {place}) % 1000000007 as bigint)"
        literals = ", ".join("'" + value.replace("\t", "' || chr(9) || '") + "'" for value in bad)
        value = good.replace("{n}", "range").replace("{r}", r)
        columns.append(
            f"case when {r} % 10 = 0 then [{literals}][1 + {r} // 10 % {len(bad)}] else {value} end as {name}"
        )
    directory = Place(root).root / "local_output" / domain
    directory.mkdir(parents=True)
    query = f"select {', '.join(columns)} from range({rows})"
    duckdb.execute(f"copy ({query}) to '{directory}/{domain}_20261101_080000.csv' (header, quote '\"', null '')")


def compare(root: str, domain: str) -> tuple[int, list[str]]:
    """Return the number of rows compared, and the rows where silver and the rules by hand differ."""
    columns = list(DRAWN[domain])
    key = columns[0]
    texts = ", ".join(f"nullif(trim({name}, ' ' || chr(9)), '') as {name}" for name in columns)
    duckdb.execute(
        f"create table texts as select {texts} from read_csv('{root}/local_output/{domain}/*.csv', all_varchar = true, "
        "header = true, delim = ',', quote = '\"', escape = '\"', auto_detect = false, columns = {"
        + ", ".join(f"'{name}': 'varchar'" for name in columns)
        + "})"
    )
    checks = ", ".join(f"coalesce({test.format(c=name)}, false) as {name}_ok" for name, test in TYPES[domain].items())
    moment = MOMENT_OF.format(c='"timestamp"')
    parts = [f"case when {name} is not null and not {name}_ok then 'TYPE:{name}' end" for name in TYPES[domain]]
    # The lake's limit is the day after landing. The only drawn timestamps past it are in the year 9999.
    too_far = f"({moment} < timestamp '1970-01-01' or year({moment}) > 9000)"
    parts.append(f"case when timestamp_ok and {too_far} then 'OUT_OF_RANGE:timestamp' end")
    for name in REQUIRED[domain]:
        missing = f"({name} is null or not {name}_ok)" if name in TYPES[domain] else f"{name} is null"
        if name == "total_amount":
            missing += " and not (quantity_ok and unit_price_ok)"
        parts.append(f"case when {missing} then 'NULL:{name}' end")
    parts += [f"case when {test} then '{code}' end" for code, test in OTHERS[domain]]
    duckdb.execute(
        f"create table judged as select {key}, nullif(concat_ws('; ', {', '.join(parts)}), '') as errors from "
        f"(select *, {checks} from texts)"
    )
    silver = f"read_parquet('{root}/datalake/silver/{domain}/**/*.parquet', hive_partitioning = false)"
    # Rows without a key cannot be matched one by one, so compare how often each verdict occurs.
    wrong = duckdb.execute(
        f"with theirs as (select {key}, validation_errors as errors, count(*) as times from {silver} group by all), "
        f"counted as (select {key}, errors, count(*) as times from judged group by all), "
        f"ours as (select {key}, errors, case when {key} is null then times else 1 end as times from counted) "
        f"select coalesce(ours.{key}, theirs.{key}), ours.errors, theirs.errors, ours.times, theirs.times "
        f"from ours full join theirs on ours.{key} is not distinct from theirs.{key} "
        "and ours.errors is not distinct from theirs.errors and ours.times = theirs.times "
        "where ours.times is null or theirs.times is null limit 20"
    ).fetchall()
    valid = duckdb.execute(f"select count(*) from {silver} where is_valid <> (validation_errors is null)").fetchall()[
        0
    ][0]
    compared = duckdb.execute(f"select count(*) from {silver}").fetchall()[0][0]
    violations = [f"{key} {row[0]}: by hand {row[1]} ×{row[3]}, in silver {row[2]} ×{row[4]}" for row in wrong]
    if valid:
        violations.append(f"{valid} rows are valid with errors, or invalid without")
    return compared, violations


FAMILIES = {"verdicts": agreement}
