-- grain: date
-- source: sales
-- One row per UTC day with at least one valid sale. Money is in the currency of the source, rounded to cents.
-- total_revenue is the total of all valid sales; refunded_amount is the part whose status is refunded or cancelled, and
-- net_revenue the rest. Amounts keep their reported sign: if a source books returns as negative lines, total_revenue is
-- already reduced by them.
-- chart with shares: Revenue | net: net_revenue, refunded or cancelled: refunded_amount | Valid sales, in the source's currency.
with amounts as (
    -- Amounts become decimals and doubles by way of text, because a direct cast of a large one loses cents.
    select
        cast(timestamp as date) as date,
        customer_id,
        cast(cast(total_amount as string) as decimal(21, 6)) as amount,
        status in ('refunded', 'cancelled') as is_refunded
    from sales
),
sums as (
    select
        date,
        sum(amount) as revenue,
        count(*) as orders,
        count(distinct customer_id) as customers,
        sum(case when is_refunded then amount else 0 end) as refunded
    from amounts
    group by date
)
select
    date,
    cast(cast(round(revenue, 2) as string) as double) as total_revenue,
    orders as order_count,
    -- An exact average: the whole part and the remainder are divided separately, because / returns a double.
    cast(cast(round(
        cast((revenue - revenue % orders) / orders as decimal(21, 0))
        + cast(cast(revenue % orders as double) / orders as decimal(18, 15)), 2
    ) as string) as double) as avg_order_value,
    customers as unique_customers,
    cast(cast(round(refunded, 2) as string) as double) as refunded_amount,
    cast(cast(round(revenue - refunded, 2) as string) as double) as net_revenue
from sums
