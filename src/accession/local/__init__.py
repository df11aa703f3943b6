"""One-machine mode: embedded PostgreSQL and Valkey, supervisor, backup and restore."""
