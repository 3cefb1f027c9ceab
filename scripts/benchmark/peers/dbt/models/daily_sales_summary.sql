select
    cast(timestamp as date) as date,
    sum(total_amount) as total_revenue,
    count(*) as order_count,
    count(distinct customer_id) as unique_customers
from {{ ref('silver_sales') }}
where is_valid
group by all
