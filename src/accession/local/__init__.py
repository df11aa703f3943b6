"""How does it all run on one machine? Embedded PostgreSQL and Valkey, and the supervisor."""
