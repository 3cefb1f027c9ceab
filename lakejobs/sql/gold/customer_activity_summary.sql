-- grain: date, event_type
-- source: customer_events
-- One row per UTC day and event type.
-- chart with shares: Events by type | event_count by event_type
select
    cast(timestamp as date) as date,
    event_type,
    count(*) as event_count,
    count(distinct customer_id) as unique_customers,
    count(distinct session_id) as unique_sessions
from customer_events
group by cast(timestamp as date), event_type
