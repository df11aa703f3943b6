"""Runs of the workflows: ledger, checkpoints, progress, health and diagnostics."""
