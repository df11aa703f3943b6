"""Command line: Typer commands, each a thin layer over the package that does the work."""
