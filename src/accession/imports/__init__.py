"""What is one step? Each takes vendor answers into the catalogue and stamps the checkpoint. No Celery."""
