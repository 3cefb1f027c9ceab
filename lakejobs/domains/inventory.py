"""Inventory: one row per stock movement of a product in a warehouse.

Seen in real exports: movement types of another process (`TRANSFER`), receipts booked with a quantity of zero, and
quantities with decimals (`3.00`) although stock is counted in whole pieces.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from lakejobs.model import Column, Domain

if TYPE_CHECKING:
    import numpy as np

MOVEMENT_TYPES = ("inbound", "outbound", "adjustment")


def fake(draw: np.random.Generator, batch: dt.datetime, first: int, count: int) -> dict[str, np.ndarray]:
    """4% of the movement types are TRANSFER, 3% of the quantities are missing or zero."""
    import numpy as np

    from lakejobs.domains import _catalogue as catalogue

    products = catalogue.products()
    product = draw.integers(0, catalogue.PRODUCTS, count)
    kind = draw.choice(3, count, p=[0.5, 0.4, 0.1])
    most = np.take((200, 80, 10), kind)
    quantity = catalogue.spoil(draw, draw.integers(1, most + 1, count).astype(str), 0.015, "")
    return {
        "movement_id": catalogue.record_ids("M", batch, first, count),
        "timestamp": catalogue.timestamps(draw, batch, count),
        "product_id": products.product_id[product],
        "product_name": products.name[product],
        "warehouse_id": draw.choice(catalogue.WAREHOUSES, count),
        "movement_type": catalogue.spoil(draw, np.take(MOVEMENT_TYPES, kind), 0.04, "TRANSFER"),
        "quantity": catalogue.spoil(draw, quantity, 0.015, "0"),
        "unit_cost": catalogue.cents(products.cost_cents[product]),
        "supplier_id": products.supplier_id[product],
    }


DOMAIN = Domain(
    name="inventory",
    description="One row per stock movement of a product in a warehouse.",
    prefix="inventory",
    columns={
        "movement_id": Column("text", "id of the movement"),
        "timestamp": Column("timestamp", "when it was booked"),
        "product_id": Column("text", "what was moved"),
        "product_name": Column("text", "the product's name at that time"),
        "warehouse_id": Column("text", "the warehouse it was moved into or out of"),
        "movement_type": Column("text", "inbound, outbound or adjustment"),
        "quantity": Column("integer", "pieces moved"),
        "unit_cost": Column("number", "cost of one piece, in the source's currency"),
        "supplier_id": Column("text", "who supplies the product"),
    },
    key="movement_id",
    event_time="timestamp",
    rows=8,
    fake=fake,
)
