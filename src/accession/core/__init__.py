"""Base modules without a domain: clock, errors, text, files, settings, logging."""
