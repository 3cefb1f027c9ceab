"""Pages: the lake report, the Data Docs, their charts and templates."""
