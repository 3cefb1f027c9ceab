"""Explain: what the lake says of itself, as values. Nothing here changes a lake; `commands` puts it into words."""
