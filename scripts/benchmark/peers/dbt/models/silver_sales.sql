with corrected as (
    select * replace (case
        when quantity * unit_price is null then total_amount
        when abs(total_amount - quantity * unit_price) <= 0.01001 then total_amount
        else round(quantity * unit_price, 2)
    end as total_amount)
    from {{ source('landing', 'sales') }}
)

select
    *,
    sale_id is not null
    and timestamp is not null
    and customer_id is not null
    and product_id is not null
    and quantity is not null
    and unit_price is not null
    and total_amount is not null as is_valid
from corrected
