"""How does the catalogue leave? MARC, OAI-PMH, OPDS 2, KBART and tables."""
