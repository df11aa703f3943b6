"""PostgreSQL: engine, models, bulk statements, schema and migrations."""
