-- grain: product_id, warehouse_id
-- source: inventory_movement_summary
-- One row per product and warehouse over all days, in pieces. net_position is inbound − outbound; adjustments are
-- shown separately and not included, because their sign is unknown.
-- chart: Net stock position | net_position by product_name or product_id, warehouse_id | Pieces in − out, all days.
select
    product_id,
    warehouse_id,
    max(product_name) as product_name,
    cast(sum(case when movement_type = 'inbound' then total_quantity else 0 end) as bigint) as inbound,
    cast(sum(case when movement_type = 'outbound' then total_quantity else 0 end) as bigint) as outbound,
    cast(sum(case when movement_type = 'adjustment' then total_quantity else 0 end) as bigint) as adjustment,
    cast(sum(
        case movement_type when 'inbound' then total_quantity when 'outbound' then -total_quantity else 0 end
    ) as bigint) as net_position
from inventory_movement_summary
group by product_id, warehouse_id
