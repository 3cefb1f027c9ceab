-- grain: date, device_type
-- source: customer_events
-- One row per UTC day and device type. Events without one form their own group (NULL).
-- chart: Sessions by device | session_count by device_type | A session counts once per day and device.
select
    cast(timestamp as date) as date,
    device_type,
    count(distinct session_id) as session_count,
    count(*) as event_count
from customer_events
group by cast(timestamp as date), device_type
