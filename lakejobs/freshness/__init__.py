"""Freshness: what every file should be made from now, what it was made from, and what other runs published."""
