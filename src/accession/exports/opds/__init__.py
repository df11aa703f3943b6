"""OPDS 2.0 documents (https://drafts.opds.io/opds-2.0): feeds of collections and titles for reading apps."""
