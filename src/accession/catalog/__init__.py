"""The catalogue: titles, holdings, availability, search, change feed and history."""
