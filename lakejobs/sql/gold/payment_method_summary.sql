-- grain: date, payment_method
-- source: sales
-- One row per UTC day and payment method. Sales without one form their own group (NULL).
-- chart: Revenue by payment method | payment_revenue by payment_method
select
    cast(timestamp as date) as date,
    payment_method,
    cast(round(sum(cast(total_amount as decimal(21, 6))), 2) as double) as payment_revenue,
    count(*) as payment_count
from sales
group by cast(timestamp as date), payment_method
