"""When and where does a step run? Celery app, schedule, queues, lock, chain, apply."""
