"""Sales from CSV to silver and gold in one bare DuckDB script: what lakejobs is measured against.

The same work on clean paths: typed behind patterns, totals corrected, duplicates superseded, rows flagged by the rules
of the suite, one Parquet file a day, the three gold tables. No lineage, no recovery, no reports, no care for broken
files. usage: bare_duckdb.py OUTPUT FILE…
"""

import os
import sys

import duckdb

output, files = sys.argv[1], sys.argv[2:]
connection = duckdb.connect()
run = connection.execute
WHOLE = r"^[+-]?[0-9]{1,15}(\.0*)?$"
NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?)?$"
names = (
    "sale_id timestamp customer_id product_id product_name category quantity unit_price total_amount "
    "payment_method status"
)
columns = ", ".join(f"{name}: 'varchar'" for name in names.split())

run(
    f"""
create temp table typed as
select * replace (
    case when expected is not null and (total_amount is null or abs(total_amount - expected) > 0.01001)
        then expected else total_amount end as total_amount
) from (
    select *, round(quantity * unit_price, 2) as expected, cast(timestamp as date) as date from (
        select * replace (
            case when regexp_matches(timestamp, '{MOMENT}') then try_cast(timestamp as timestamp) end as timestamp,
            case when regexp_matches(quantity, '{WHOLE}') then try_cast(quantity as bigint) end as quantity,
            case when regexp_matches(unit_price, '{NUMBER}') then try_cast(unit_price as double) end as unit_price,
            case when regexp_matches(total_amount, '{NUMBER}') then try_cast(total_amount as double) end as total_amount
        ) from read_csv(?, auto_detect = false, header = true, columns = {{{columns}}}, filename = true)
    )
)""",
    [files],
)
run(
    "create temp table repeated as select date, sale_id from typed where sale_id is not null "
    "group by all having count(*) > 1"
)
run("""
create temp table superseded as select row from (
    select t.rowid as row, row_number() over (
        partition by date, sale_id order by timestamp desc, filename desc, t.rowid desc
    ) as place from typed as t join repeated using (date, sale_id)
) where place > 1""")
rules = ["sale_id", "timestamp", "customer_id", "product_id", "quantity", "unit_price", "total_amount"]
errors = ", ".join(f"case when {column} is null then 'NULL:{column}' end" for column in rules)
(dates,) = zip(*run("select distinct date from typed").fetchall(), strict=True)
query = f"""
    select * exclude (expected), errors is null as is_valid from (
        select *, nullif(concat_ws('; ', {errors}), '') as errors
        from typed where rowid not in (select row from superseded)
    )"""
os.makedirs(output)
if len(dates) == 1:
    run(f"copy (select * exclude (date) from ({query})) to '{output}/silver.parquet'")
    run(f"create view silver as select *, cast(timestamp as date) as date from '{output}/silver.parquet'")
else:
    run(f"copy ({query}) to '{output}/silver' (format parquet, partition_by (date))")
    run(f"create view silver as select * from read_parquet('{output}/silver/**/*.parquet', hive_partitioning = true)")
amount = "sum(cast(total_amount as decimal(21, 6)))"
for table, grain, more in (
    (
        "daily_sales_summary",
        "date",
        f"count(distinct customer_id), {amount} filter (status in ('refunded', 'cancelled'))",
    ),
    ("category_sales_summary", "date, category", "avg(unit_price)"),
    ("payment_method_summary", "date, payment_method", "1"),
):
    run(
        f"copy (select {grain}, round({amount}, 2) as amount, count(*) as orders, {more} from silver where is_valid "
        f"group by {grain}) to '{output}/{table}.parquet'"
    )
