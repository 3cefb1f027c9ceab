"""The fact tables that come with lakejobs, one module each."""

ORDER = ("sales", "customer_events", "inventory")
"""The modules listed first; all others follow by name."""
