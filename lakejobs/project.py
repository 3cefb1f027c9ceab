"""The project: the domains and gold tables that the settings name."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lakejobs.domains import customer_events, inventory, sales
from lakejobs.messages import LakeError
from lakejobs.model import Domain


def domains() -> Mapping[str, Domain]:
    """Every domain by name."""
    return {domain.name: domain for domain in (sales.DOMAIN, customer_events.DOMAIN, inventory.DOMAIN)}


def exists(path: str) -> bool:
    """Whether the project has a file."""
    return os.path.exists(path)


def read_text(path: str) -> str:
    """The text of a file of the project. Raises LakeError."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except OSError as error:
        raise LakeError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LakeError(f"{path} is not UTF-8 text") from None
