"""What does the library hold? Models, data classes, hash, apply, queries. Knows no vendor and no Celery."""
