"""The fact tables of the lake. A new domain is a module here, a line below, and a suite in `expectations/`."""

from lakejobs.domains import customer_events, inventory, sales
from lakejobs.domains.domain import Correction, Domain

DOMAINS: dict[str, Domain] = {
    domain.name: domain for domain in (sales.DOMAIN, customer_events.DOMAIN, inventory.DOMAIN)
}

__all__ = ["DOMAINS", "Correction", "Domain"]
