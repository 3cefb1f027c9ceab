"""Layers: staging, bronze, silver and gold as plain functions, independent of Luigi, the pages and any engine."""
