"""The fictional company behind the generated data: one catalogue and one customer base for all domains.

Faker provides the vocabulary from a fixed seed, so the tables join and every machine generates the same company.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

CATEGORIES = {
    "Electronics": ("Headphones", "Keyboard", "Monitor", "Router", "Speaker", "Tablet", "Charger", "Webcam"),
    "Home": ("Lamp", "Cushion", "Kettle", "Vase", "Blanket", "Mirror", "Clock", "Candle"),
    "Clothing": ("Jacket", "Scarf", "Shirt", "Socks", "Sweater", "Cap", "Gloves", "Belt"),
    "Sports": ("Ball", "Racket", "Yoga Mat", "Helmet", "Bottle", "Rope", "Dumbbell", "Backpack"),
    "Books": ("Cookbook", "Atlas", "Novel", "Biography", "Guide", "Anthology", "Diary", "Dictionary"),
}
WAREHOUSES = ("WH-BER", "WH-LYS", "WH-MAD", "WH-ROT", "WH-WAW")
CUSTOMERS = 2_000
PRODUCTS = 200
SUPPLIERS = 25


class Products(NamedTuple):
    """Columns of the catalogue, one entry per product. Prices and costs are euro cents, as integers."""

    product_id: np.ndarray
    name: np.ndarray
    category: np.ndarray
    price_cents: np.ndarray
    cost_cents: np.ndarray
    supplier_id: np.ndarray


@cache
def products() -> Products:
    """The catalogue: 200 products in five categories, the same on every machine."""
    import numpy as np
    from faker import Faker

    fake = Faker("en_US")
    fake.seed_instance(20261101)
    draw = np.random.default_rng(20261101)
    categories = list(CATEGORIES)
    names, kinds = [], []
    for number in range(PRODUCTS):
        category = categories[number % len(categories)]
        thing = CATEGORIES[category][number // len(categories) % len(CATEGORIES[category])]
        # A company name may contain a comma ("Wood, Reed and Cole"), so the files need quoting, as real ones do.
        names.append(f"{fake.company()} {fake.color_name()} {thing}")
        kinds.append(category)
    price = draw.integers(4, 400, PRODUCTS) * 100 + draw.choice([0, 49, 50, 95, 99], PRODUCTS)
    return Products(
        product_id=np.array([f"P{number:04d}" for number in range(1, PRODUCTS + 1)]),
        name=np.array(names),
        category=np.array(kinds),
        price_cents=price,
        cost_cents=price * 6 // 10,
        supplier_id=np.array([f"SUP-{number:02d}" for number in draw.integers(1, SUPPLIERS + 1, PRODUCTS)]),
    )


def customer_ids(numbers: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.char.add("C", np.char.zfill((numbers + 1).astype(str), 5))


def record_ids(letter: str, batch: dt.datetime, first: int, count: int) -> np.ndarray:
    """Ids unique to this batch of the domain: `S20261101120000-000001`."""
    import numpy as np

    numbers = np.char.zfill(np.arange(first + 1, first + count + 1).astype(str), 6)
    return np.char.add(f"{letter}{batch:%Y%m%d%H%M%S}-", numbers)


def timestamps(draw: np.random.Generator, batch: dt.datetime, count: int) -> np.ndarray:
    """Ascending ISO 8601 texts from the five minutes before the batch's timestamp, never before midnight of its day.

    Some sources omit a fraction of zero, so a file mixes whole and fractional seconds.
    """
    import numpy as np

    midnight = batch.replace(hour=0, minute=0, second=0, microsecond=0)
    span = min(300, int((batch - midnight).total_seconds())) * 1000 or 1
    back = np.sort(draw.integers(0, span, count))[::-1]
    moments = np.datetime64(batch, "ms") - back.astype("timedelta64[ms]")
    text = np.datetime_as_string(moments, unit="ms")
    return np.where(np.char.endswith(text, ".000"), np.char.replace(text, ".000", ""), text)


def cents(amounts: np.ndarray) -> np.ndarray:
    """Integer cents as decimal text: 1230 → '12.30'."""
    import numpy as np

    sign = np.where(amounts < 0, "-", "")
    whole, rest = np.divmod(np.abs(amounts), 100)
    text = np.char.add(np.char.add(whole.astype(str), "."), np.char.zfill(rest.astype(str), 2))
    return np.char.add(sign, text)


def spoil(draw: np.random.Generator, values: np.ndarray, rate: float, bad: str) -> np.ndarray:
    """The values, with a random share `rate` of them replaced by `bad`."""
    import numpy as np

    return np.where(draw.random(len(values)) < rate, bad, values)
