"""Base modules without a domain: clock, errors, text, files, settings and logging."""
