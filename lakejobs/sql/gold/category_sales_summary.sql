-- grain: date, category
-- source: sales
-- One row per UTC day and product category. Sales without a category form their own group (NULL).
-- chart with shares: Revenue by category | category_revenue by category
with amounts as (
    -- Amounts become decimals and doubles by way of text, because a direct cast of a large one loses cents.
    select
        cast(timestamp as date) as date,
        category,
        cast(cast(total_amount as string) as decimal(21, 6)) as amount,
        cast(cast(unit_price as string) as decimal(21, 6)) as price
    from sales
),
sums as (
    select date, category, sum(amount) as revenue, count(*) as orders, sum(price) as prices
    from amounts
    group by date, category
)
select
    date,
    category,
    cast(cast(round(revenue, 2) as string) as double) as category_revenue,
    orders as category_orders,
    -- An exact average: the whole part and the remainder are divided separately, because / returns a double.
    cast(cast(round(
        cast((prices - prices % orders) / orders as decimal(21, 0))
        + cast(cast(prices % orders as double) / orders as decimal(18, 15)), 2
    ) as string) as double) as avg_unit_price
from sums
