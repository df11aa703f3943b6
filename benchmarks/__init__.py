"""Measurements of Accession's speed and memory against the simulated vendor.

`python -m benchmarks --help` lists the parts.
"""
