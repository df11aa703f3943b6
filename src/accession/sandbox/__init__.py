"""What if there is no vendor? A stand-in that serves real works, and faults on request."""
