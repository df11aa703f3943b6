"""Tests with killed processes, a faulty vendor, malformed documents, and secrets in every output."""
