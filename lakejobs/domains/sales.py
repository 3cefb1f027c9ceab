"""Sales: one row per sale line, as exported by a shop's till system.

Seen in real exports: totals that do not match quantity × price, missing quantities, whole lines sent twice, and
integers written as `3.0` because the exporting tool found a NULL in the column.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from lakejobs.model import Column, Correction, Domain

if TYPE_CHECKING:
    import numpy as np

PAYMENT_METHODS = ("credit_card", "debit_card", "paypal", "bank_transfer", "cash")
STATUSES = ("completed", "pending", "refunded")


def fake(draw: np.random.Generator, batch: dt.datetime, first: int, count: int) -> dict[str, np.ndarray]:
    """5% of the totals are wrong, 3% of the quantities are missing."""
    import numpy as np

    from lakejobs.domains import _catalogue as catalogue

    products = catalogue.products()
    product = draw.integers(0, catalogue.PRODUCTS, count)
    quantity = draw.integers(1, 6, count)
    total = quantity * products.price_cents[product]
    wrong = draw.random(count) < 0.05
    off_by = draw.integers(1, 2000, count) * draw.choice([-1, 1], count)
    return {
        "sale_id": catalogue.record_ids("S", batch, first, count),
        "timestamp": catalogue.timestamps(draw, batch, count),
        "customer_id": catalogue.customer_ids(draw.integers(0, catalogue.CUSTOMERS, count)),
        "product_id": products.product_id[product],
        "product_name": products.name[product],
        "category": products.category[product],
        "quantity": catalogue.spoil(draw, quantity.astype(str), 0.03, ""),
        "unit_price": catalogue.cents(products.price_cents[product]),
        "total_amount": catalogue.cents(np.where(wrong, total + off_by * 10, total)),
        "payment_method": draw.choice(PAYMENT_METHODS, count, p=[0.4, 0.2, 0.2, 0.1, 0.1]),
        "status": draw.choice(STATUSES, count, p=[0.85, 0.1, 0.05]),
    }


DOMAIN = Domain(
    name="sales",
    description="One row per sale line.",
    prefix="sales",
    columns={
        "sale_id": Column("text", "id of the sale line"),
        "timestamp": Column("timestamp", "when it was sold"),
        "customer_id": Column("text", "who bought"),
        "product_id": Column("text", "what was sold"),
        "product_name": Column("text", "the product's name at that time"),
        "category": Column("text", "the product's category at that time"),
        "quantity": Column("integer", "pieces sold"),
        "unit_price": Column("number", "price of one piece, in the source's currency"),
        "total_amount": Column("number", "quantity × unit_price, to the cent"),
        "payment_method": Column("text", "how it was paid"),
        "status": Column("text", "completed, pending, refunded or cancelled"),
    },
    key="sale_id",
    event_time="timestamp",
    rows=10,
    fake=fake,
    corrections=(
        Correction(
            column="total_amount",
            operands=("quantity", "unit_price"),
            # By way of text, because a direct cast of a large price loses cents. A double has at most 17 digits, and
            # the product of decimals at most 38.
            expression="case when abs(unit_price) >= 1e8 or unit_price = round(unit_price, 8) "
            "then round(cast(quantity as decimal(15, 0)) * cast(cast(unit_price as string) as decimal(23, 8)), 2) "
            "else round(cast(quantity as decimal(15, 0)) * cast(cast(unit_price as string) as decimal(23, 15)), 2) end",
            tolerance=0.01,
            # A difference of less than half a cent. Below 1e9, doubles err by less than 0.0001 there.
            holds="abs(quantity * unit_price - total_amount) < 0.0049 and abs(total_amount) < 1e9 "
            "and total_amount = round(total_amount, 2)",
        ),
    ),
)
