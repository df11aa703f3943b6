"""PostgreSQL access: engine, models, bulk statements, schema and migrations."""
