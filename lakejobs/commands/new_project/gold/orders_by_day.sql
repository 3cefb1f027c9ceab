-- grain: date
-- source: orders
-- One row per UTC day with at least one valid order line.
--
-- The first two lines say what a row stands for and where rows come from: a domain, whose valid rows are read under its
-- name, or another gold table. The rest is one query, in DuckDB's SQL. A table with `date` in its grain is computed only
-- for the days that changed. Make a copy to add a table, with examples beside it in <table>.test.yaml.
--
-- A table may read several sources, `-- sources: orders, returns, products (all days)`: each day then sees that day's rows
-- of every source, and all days of one that says so. The next lines chart it in the report: a title, columns with names,
-- and a note; or `revenue by product` in place of the columns.
-- chart: Revenue | revenue: revenue | In euros.
-- chart: Orders | all: orders, with gifts: orders_with_gifts
select
    cast(ordered_at as date) as date,
    count(distinct order_id) as orders,
    cast(sum(pieces) as bigint) as pieces,
    cast(sum(pieces * price) as double) as revenue,
    count(distinct case when is_gift then order_id end) as orders_with_gifts
from orders
group by cast(ordered_at as date)
