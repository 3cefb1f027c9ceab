"""Orders: one row per order line, as the shop's till exports them at the end of a day.

A module like this describes one kind of record. Its files are delivered to local_output/orders/. Make a copy of it to
add a domain, and write rules for it in expectations/<name>.json. A module whose name begins with `_` is no domain; put
there what several domains share.
"""

from lakejobs.model import Column, Domain

DOMAIN = Domain(
    name="orders",
    description="One row per order line.",
    # The columns of the files, in any order there; other columns are kept beside the rows. The types are text, integer,
    # number, decimal(p, s), boolean, date and timestamp. A value that does not fit its type makes its row invalid, and
    # stays readable in the column rescued_data.
    columns={
        "order_id": Column("text", "the shop's number of the order"),
        "line": Column("integer", "the line's number within the order, from 1"),
        "ordered_at": Column("timestamp", "when it was ordered; UTC, unless the file gives an offset"),
        "customer": Column("text", "who ordered; empty where nobody signed in"),
        "product": Column("text", "what was ordered"),
        "pieces": Column("integer", "how many"),
        "price": Column("decimal(10, 2)", "of one piece, in euros"),
        "is_gift": Column("boolean", "whether it is to be wrapped"),
        "wanted_by": Column("date", "the day it has to arrive by, if there is one"),
    },
    # What tells two rows apart. When an order line is delivered again, the latest replaces the others.
    key=("order_id", "line"),
    # The moment that decides which day a row belongs to.
    event_time="ordered_at",
)
