"""CSV to silver and gold in one bare DuckDB script, the baseline for lakejobs.

Does the same work for clean files: types values that match patterns, corrects totals, drops superseded records, flags
rows by the rules of the suites, and writes one Parquet file a day and each domain's gold tables. It has no lineage,
no recovery and no reports, and does not handle broken files.

usage: bare_duckdb.py OUTPUT STAGING, where STAGING/<domain>/ holds CSV files
"""

import glob
import os
import sys

import duckdb

WHOLE = r"^[+-]?[0-9]{1,15}(\.0*)?$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?)?$"
COLUMNS = {
    "sales": "sale_id timestamp customer_id product_id product_name category quantity unit_price total_amount "
    "payment_method status",
    "customer_events": "event_id timestamp customer_id session_id event_type product_id page_url device_type",
    "inventory": "movement_id timestamp product_id product_name warehouse_id movement_type quantity unit_cost "
    "supplier_id",
}
TYPES = {
    "timestamp": f"case when regexp_matches(timestamp, '{MOMENT}') then try_cast(timestamp as timestamp) end",
    **{
        name: f"case when regexp_matches({name}, '{NUMBER}') then try_cast({name} as double) end"
        for name in ("unit_price", "total_amount", "unit_cost")
    },
    "quantity": f"case when regexp_matches(quantity, '{WHOLE}') "
    "then try_cast(try_cast(quantity as double) as bigint) end",
}
REQUIRED = {
    "sales": "sale_id timestamp customer_id product_id quantity unit_price total_amount",
    "customer_events": "event_id timestamp customer_id session_id event_type",
    "inventory": "movement_id timestamp product_id warehouse_id movement_type quantity",
}
RULES = {
    "sales": {},
    "customer_events": {
        "INVALID_EVENT_TYPE": "event_type not in ('login', 'browse', 'add_to_cart', 'checkout', 'logout')"
    },
    "inventory": {
        "INVALID_MOVEMENT_TYPE": "movement_type not in ('inbound', 'outbound', 'adjustment')",
        "NON_POSITIVE_QUANTITY": "quantity < 1",
    },
}
AMOUNT = "sum(cast(total_amount as decimal(21, 6)))"
GOLD = {
    "sales": {
        "daily_sales_summary": (
            "date",
            f"{AMOUNT}, count(*), count(distinct customer_id), {AMOUNT} filter (status in ('refunded', 'cancelled'))",
        ),
        "category_sales_summary": ("date, category", f"{AMOUNT}, count(*), avg(unit_price)"),
        "payment_method_summary": ("date, payment_method", f"{AMOUNT}, count(*)"),
    },
    "customer_events": {
        "customer_activity_summary": (
            "date, event_type",
            "count(*), count(distinct customer_id), count(distinct session_id)",
        ),
        "device_usage_summary": ("date, device_type", "count(distinct session_id), count(*)"),
    },
    "inventory": {
        "inventory_movement_summary": (
            "date, product_id, warehouse_id, movement_type",
            "max(product_name), sum(quantity), sum(quantity * cast(unit_cost as decimal(19, 4))), count(*)",
        ),
        "inventory_net_position": (
            "product_id, warehouse_id",
            "max(product_name), sum(quantity) filter (movement_type = 'inbound'), "
            "sum(quantity) filter (movement_type = 'outbound')",
        ),
    },
}


def run(output: str, files: list[str], domain: str) -> None:
    connection = duckdb.connect()
    execute = connection.execute
    columns = COLUMNS[domain].split()
    key = columns[0]
    typed = ", ".join(f"{TYPES[name]} as {name}" for name in columns if name in TYPES)
    texts = ", ".join(f"{name}: 'varchar'" for name in columns)
    rows = f"""
        select * replace ({typed}) from read_csv(
            ?, auto_detect = false, header = true, columns = {{{texts}}}, filename = true
        )"""
    if domain == "sales":
        rows = f"""
            select * exclude (expected) replace (
                case when expected is not null and (total_amount is null or abs(total_amount - expected) > 0.01001)
                    then expected else total_amount end as total_amount
            ) from (select *, round(quantity * unit_price, 2) as expected from ({rows}))"""
    execute(f"create temp table typed as select *, cast(timestamp as date) as date from ({rows})", [files])
    execute(
        f"create temp table repeated as select date, {key} from typed where {key} is not null "
        "group by all having count(*) > 1"
    )
    execute(f"""
        create temp table superseded as select row from (
            select t.rowid as row, row_number() over (
                partition by date, {key} order by timestamp desc, filename desc, t.rowid desc
            ) as place from typed as t join repeated using (date, {key})
        ) where place > 1""")
    codes = [f"case when {column} is null then 'NULL:{column}' end" for column in REQUIRED[domain].split()]
    codes += [f"case when {wrong} then '{code}' end" for code, wrong in RULES[domain].items()]
    silver = f"""
        select *, errors is null as is_valid from (
            select *, nullif(concat_ws('; ', {", ".join(codes)}), '') as errors
            from typed where rowid not in (select row from superseded)
        )"""
    os.makedirs(f"{output}/{domain}")
    (days,) = execute("select count(distinct date) from typed").fetchall()[0]
    if days == 1:
        execute(f"copy ({silver}) to '{output}/{domain}/silver.parquet'")
        execute(f"create view silver as select * from '{output}/{domain}/silver.parquet'")
    else:
        execute(f"copy ({silver}) to '{output}/{domain}/silver' (format parquet, partition_by (date))")
        execute(f"create view silver as select * from read_parquet('{output}/{domain}/silver/**/*.parquet')")
    for table, (grain, aggregates) in GOLD[domain].items():
        execute(
            f"copy (select {grain}, {aggregates} from silver where is_valid group by {grain}) "
            f"to '{output}/{domain}/{table}.parquet'"
        )


for name in COLUMNS:
    if found := sorted(glob.glob(f"{sys.argv[2]}/{name}/*.csv")):
        run(sys.argv[1], found, name)
