-- grain: date
-- source: orders
-- One row per UTC day with at least one valid order line.
-- chart with totals: Revenue | revenue: revenue | In euros.
-- chart with totals: Orders | all: orders, with gifts: orders_with_gifts

-- The first two lines declare the grain and the source: a domain, whose valid rows the SQL reads under the domain's
-- name, or another gold table. What follows them, up to an empty line, describes the table in the report. The rest is
-- one query, in DuckDB's SQL. If `date` is in the grain, only the days that changed are recomputed. To add a table, copy
-- this file and put examples beside it in <table>.test.yaml.
--
-- A table may read several sources: `-- sources: orders, returns, products (all days)`. Each day then sees that day's
-- rows of every source, but every row of a source marked `(all days)`. A line `-- chart:` charts the table in the
-- report: a title, named columns and a note; or `revenue by product` in place of the named columns. Over
-- longer times, values are averaged; with `-- chart with totals:` they are added up, and with `-- chart with shares:`
-- also shown in percent, for parts of a whole such as the revenue of each product.
select
    cast(ordered_at as date) as date,
    count(distinct order_id) as orders,
    cast(sum(pieces) as bigint) as pieces,
    cast(sum(pieces * price) as double) as revenue,
    count(distinct case when is_gift then order_id end) as orders_with_gifts
from orders
group by cast(ordered_at as date)
