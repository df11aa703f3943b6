"""Exports: MARC 21, MARCXML, OAI-PMH, OPDS 2, KBART and tables."""
