"""Client and parsers for the vendor's API: MARC records, titles, circulation events, and errors."""
