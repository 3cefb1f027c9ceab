-- grain: date, device_type
-- source: customer_events
-- One row per UTC day and type of device. Events without one are a group of their own (NULL).
-- chart: Sessions by device | session_count by device_type | A session counts once for each day and device.
select
    cast(timestamp as date) as date,
    device_type,
    count(distinct session_id) as session_count,
    count(*) as event_count
from customer_events
group by cast(timestamp as date), device_type
