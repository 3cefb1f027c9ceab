-- grain: date, payment_method
-- source: sales
-- One row per UTC day and payment method. Sales without one form their own group (NULL).
-- chart with shares: Revenue by payment method | payment_revenue by payment_method
with amounts as (
    -- Amounts become decimals and doubles by way of text, because a direct cast of a large one loses cents.
    select
        cast(timestamp as date) as date,
        payment_method,
        cast(cast(total_amount as string) as decimal(21, 6)) as amount
    from sales
)
select
    date,
    payment_method,
    cast(cast(round(sum(amount), 2) as string) as double) as payment_revenue,
    count(*) as payment_count
from amounts
group by date, payment_method
