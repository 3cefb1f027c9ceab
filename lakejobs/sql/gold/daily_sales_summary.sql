-- grain: date
-- source: sales
-- One row per UTC day with at least one valid sale. Money is in the currency of the source, rounded to cents.
-- total_revenue counts every valid sale; refunded_amount is the part whose status is refunded or cancelled, and
-- net_revenue the rest. Amounts keep their reported sign: if a source books returns as negative lines, total_revenue is
-- already reduced by them.
-- chart: Revenue | net: net_revenue, refunded or cancelled: refunded_amount | Valid sales, in the source's currency.
select
    cast(timestamp as date) as date,
    cast(round(sum(cast(total_amount as decimal(21, 6))), 2) as double) as total_revenue,
    count(*) as order_count,
    round(cast(sum(cast(total_amount as decimal(21, 6))) as double) / count(*), 2) as avg_order_value,
    count(distinct customer_id) as unique_customers,
    cast(round(sum(
        case when status in ('refunded', 'cancelled') then cast(total_amount as decimal(21, 6)) else 0 end
    ), 2) as double) as refunded_amount,
    cast(round(sum(
        case when status in ('refunded', 'cancelled') then 0 else cast(total_amount as decimal(21, 6)) end
    ), 2) as double) as net_revenue
from sales
group by cast(timestamp as date)
