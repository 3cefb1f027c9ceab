"""Importing Great Expectations, quietly and in about half of its time.

All tricks with imports are here. Measured with `python -X importtime`, 2 cores: 1.1 s as it comes, of which a third
is `altair` and `scipy.stats`, which only expectations about distributions use; collecting garbage meanwhile is a tenth.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import sys
import threading
import types
from typing import Any

# A third of Great Expectations' import time, for expectations about distributions; loaded when one is used.
DEFERRED = ("altair", "scipy.stats")


class Deferred(types.ModuleType):
    """Stands in for a module that is seldom used, and becomes it at the first use."""

    def __getattr__(self, attribute: str) -> Any:
        # What imports one of its submodules asks for its path.
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is self:
            # Its own modules import it while it is imported: none of them may find this one instead.
            del sys.modules[self.__name__]
            parent, _, child = self.__name__.rpartition(".")
            if parent:
                delattr(sys.modules[parent], child)
        return getattr(importlib.import_module(self.__name__), attribute)


def import_great_expectations() -> None:
    """Import what a validation needs, without telemetry and without what only distributions need."""
    if "great_expectations" in sys.modules:
        return
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    for name in DEFERRED:
        if name not in sys.modules:
            parent, _, child = name.rpartition(".")
            sys.modules[name] = Deferred(name)
            if parent:
                setattr(importlib.import_module(parent), child, sys.modules[name])
    # Thousands of classes are made and none is thrown away: collecting garbage meanwhile is a tenth of the time.
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("great_expectations")
        importlib.import_module("great_expectations.validator.validator")
    finally:
        if was_collecting:
            gc.enable()


@functools.cache
def import_in_background() -> threading.Thread:
    """Start the import (seconds) beside work that needs no Python, such as the engine's; the first call does."""
    thread = threading.Thread(target=import_great_expectations, name="import great_expectations", daemon=True)
    thread.start()
    return thread
