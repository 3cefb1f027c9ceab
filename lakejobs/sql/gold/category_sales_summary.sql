-- grain: date, category
-- source: sales
-- One row per UTC day and product category. Sales without a category form their own group (NULL).
-- chart: Revenue by category | category_revenue by category
select
    cast(timestamp as date) as date,
    category,
    cast(round(sum(cast(total_amount as decimal(21, 6))), 2) as double) as category_revenue,
    count(*) as category_orders,
    round(cast(sum(cast(unit_price as decimal(21, 6))) as double) / count(*), 2) as avg_unit_price
from sales
group by cast(timestamp as date), category
