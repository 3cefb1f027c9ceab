-- grain: date, product_id, warehouse_id, movement_type
-- source: inventory
-- One row per UTC day, product, warehouse and movement type. Quantities are in pieces; total_cost is the sum of
-- quantity × unit_cost, in the currency of the source. If a product has several names, the last in sort order is shown.
-- chart with shares: Stock moved | total_quantity by movement_type | Pieces, as booked.
with movements as (
    -- Amounts become decimals and doubles by way of text, because a direct cast of a large one loses cents. A double has
    -- at most 17 digits, and the product of decimals at most 38.
    select
        *,
        cast(timestamp as date) as date,
        cast(case
            when abs(unit_cost) >= 1e8 or unit_cost = round(unit_cost, 8)
            then round(cast(quantity as decimal(15, 0)) * cast(cast(unit_cost as string) as decimal(23, 8)), 6)
            else round(cast(quantity as decimal(15, 0)) * cast(cast(unit_cost as string) as decimal(23, 15)), 6)
        end as decimal(38, 6)) as cost
    from inventory
)
select
    date,
    product_id,
    warehouse_id,
    movement_type,
    max(product_name) as product_name,
    cast(sum(quantity) as bigint) as total_quantity,
    cast(cast(round(sum(cost), 2) as string) as double) as total_cost,
    count(*) as movement_count
from movements
group by date, product_id, warehouse_id, movement_type
