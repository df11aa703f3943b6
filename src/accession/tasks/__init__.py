"""Celery app, schedule, queues, locks, workflow steps, retries and recovery."""
