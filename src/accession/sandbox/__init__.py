"""Simulated vendor: sells real works over HTTP and misbehaves on request."""
