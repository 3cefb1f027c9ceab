"""Customer events: one row per action of a visitor on the shop's website or in its app.

Seen in real exports: event types that a newer tracker version introduced (`UNKNOWN`), events of visitors who are not
identified yet, and clients that resend an event after a network error.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from lakejobs.model import Column, Domain

if TYPE_CHECKING:
    import numpy as np

EVENT_TYPES = ("login", "browse", "add_to_cart", "checkout", "logout")
PAGES = ("/login", "/products/", "/cart", "/checkout", "/logout")
DEVICES = ("desktop", "mobile", "tablet")
EVENTS_PER_SESSION = 5


def fake(draw: np.random.Generator, batch: dt.datetime, first: int, count: int) -> dict[str, np.ndarray]:
    """4% of the event types are UNKNOWN, 3% of the customers are missing. About five events share a session."""
    import numpy as np

    from lakejobs.domains import _catalogue as catalogue

    products = catalogue.products()
    sessions = (count + EVENTS_PER_SESSION - 1) // EVENTS_PER_SESSION
    session = draw.integers(0, sessions, count)
    session_number = np.char.zfill((first // EVENTS_PER_SESSION + session + 1).astype(str), 6)
    customer = draw.integers(0, catalogue.CUSTOMERS, sessions)[session]
    device = draw.choice(DEVICES, sessions, p=[0.45, 0.45, 0.1])[session]
    kind = draw.choice(5, count, p=[0.15, 0.45, 0.2, 0.1, 0.1])
    product = products.product_id[draw.integers(0, catalogue.PRODUCTS, count)]
    about_product = (kind == 1) | (kind == 2)
    page = np.where(kind == 1, np.char.add("/products/", product), np.take(PAGES, kind))
    return {
        "event_id": catalogue.record_ids("E", batch, first, count),
        "timestamp": catalogue.timestamps(draw, batch, count),
        "customer_id": catalogue.spoil(draw, catalogue.customer_ids(customer), 0.03, ""),
        "session_id": np.char.add(f"SES{batch:%Y%m%d%H%M%S}-", session_number),
        "event_type": catalogue.spoil(draw, np.take(EVENT_TYPES, kind), 0.04, "UNKNOWN"),
        "product_id": np.where(about_product, product, ""),
        "page_url": page,
        "device_type": device,
    }


DOMAIN = Domain(
    name="customer_events",
    description="One row per action of a visitor in the shop.",
    prefix="events",
    columns={
        "event_id": Column("text", "id of the event"),
        "timestamp": Column("timestamp", "when it happened"),
        "customer_id": Column("text", "who did it, if known"),
        "session_id": Column("text", "the visit it belongs to"),
        "event_type": Column("text", "login, browse, add_to_cart, checkout or logout"),
        "product_id": Column("text", "the product it was about, if any"),
        "page_url": Column("text", "the page it happened on"),
        "device_type": Column("text", "desktop, mobile or tablet"),
    },
    key="event_id",
    event_time="timestamp",
    rows=15,
    fake=fake,
)
