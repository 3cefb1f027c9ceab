"""Sales with Dagster: assets in DuckDB, and a check of every rule."""

import dagster as dg
from dagster_duckdb import DuckDBResource

REQUIRED = ["sale_id", "timestamp", "customer_id", "product_id", "quantity", "unit_price", "total_amount"]


@dg.asset
def raw_sales(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as connection:
        connection.execute("create or replace table raw_sales as select * from read_csv('landing/*.csv')")


@dg.asset(deps=[raw_sales])
def sales(duckdb: DuckDBResource) -> None:
    valid = " and ".join(f"{column} is not null" for column in REQUIRED)
    with duckdb.get_connection() as connection:
        connection.execute(f"""
            create or replace table sales as
            select *, {valid} as is_valid from (
                select * replace (case
                    when quantity * unit_price is null then total_amount
                    when abs(total_amount - quantity * unit_price) <= 0.01001 then total_amount
                    else round(quantity * unit_price, 2)
                end as total_amount) from raw_sales
            )""")


@dg.multi_asset_check(specs=[dg.AssetCheckSpec(f"{column}_not_null", asset=sales) for column in REQUIRED])
def sales_checks(duckdb: DuckDBResource):
    with duckdb.get_connection() as connection:
        for column in REQUIRED:
            (failed,) = connection.execute(f"select count(*) from sales where {column} is null").fetchone()
            yield dg.AssetCheckResult(
                check_name=f"{column}_not_null",
                asset_key="sales",
                passed=failed == 0,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"failed": failed},
            )


@dg.asset(deps=[sales])
def daily_sales_summary(duckdb: DuckDBResource) -> None:
    with duckdb.get_connection() as connection:
        connection.execute("""
            create or replace table daily_sales_summary as
            select
                cast(timestamp as date) as date,
                sum(total_amount) as total_revenue,
                count(*) as order_count,
                count(distinct customer_id) as unique_customers
            from sales
            where is_valid
            group by all""")


defs = dg.Definitions(
    assets=[raw_sales, sales, daily_sales_summary],
    asset_checks=[sales_checks],
    resources={"duckdb": DuckDBResource(database="sales.duckdb")},
)
