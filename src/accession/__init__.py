"""Keep a library's catalogue in step with the titles it buys from Bibliotheca cloudLibrary."""

__version__ = "0.1.0"
