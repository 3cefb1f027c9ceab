"""The project: the domains and gold tables that the settings name."""

from __future__ import annotations

from collections.abc import Mapping

from lakejobs.domains import customer_events, inventory, sales
from lakejobs.model import Domain


def domains() -> Mapping[str, Domain]:
    """Every domain by name."""
    return {domain.name: domain for domain in (sales.DOMAIN, customer_events.DOMAIN, inventory.DOMAIN)}
