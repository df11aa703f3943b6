"""Import steps of each workflow: vendor responses become catalogue rows and checkpoints; no Celery."""
