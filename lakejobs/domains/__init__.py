"""The fact tables that come with lakejobs, a module each."""

ORDER = ("sales", "customer_events", "inventory")
"""The modules that come first where domains are listed; all others follow by name."""
