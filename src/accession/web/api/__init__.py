"""The JSON API under `/api/v1`: for programs, what the dashboard shows and does."""
