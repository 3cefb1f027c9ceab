"""Orders: one row per order line, as exported by the shop's till at the end of each day.

A module like this describes one domain. Put its CSV files into local_output/orders/. To add a domain, copy this module
and write rules in expectations/<name>.json. A module whose name begins with `_` is not a domain; use one for code that
domains share.
"""

from lakejobs.model import Column, Domain

DOMAIN = Domain(
    name="orders",
    description="One row per order line.",
    # The columns of the files, in any order. Unknown columns are kept in the column rescued_data. The types are text,
    # integer, number, decimal(p, s), boolean, date and timestamp. A value that does not fit its type makes its row
    # invalid, and its text is kept in rescued_data. Booleans are true or false, t or f, yes or no, 1 or 0. Decimals are
    # never rounded: 4.505 does not fit decimal(10, 2).
    columns={
        "order_id": Column("text", "the shop's order number"),
        "line": Column("integer", "line number within the order, from 1"),
        "ordered_at": Column("timestamp", "when it was ordered; UTC, unless the file gives an offset"),
        "customer": Column("text", "who ordered; empty if nobody signed in"),
        "product": Column("text", "what was ordered"),
        "pieces": Column("integer", "pieces ordered"),
        "price": Column("decimal(10, 2)", "price of one piece, in euros"),
        "is_gift": Column("boolean", "whether to gift-wrap it"),
        "wanted_by": Column("date", "latest day of arrival, if any"),
    },
    # The columns that identify a row within its UTC day. If an order line is delivered again for the same day, the
    # latest one replaces the others; for another day, it is another row.
    key=("order_id", "line"),
    # The timestamp that decides which day a row belongs to.
    event_time="ordered_at",
)
