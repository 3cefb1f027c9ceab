"""Layers: staging, bronze, silver and gold, each as functions. Nothing here knows of Luigi, of pages, or an engine."""
