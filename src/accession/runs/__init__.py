"""Runs: ledger, checkpoints, progress, health and diagnostics."""
