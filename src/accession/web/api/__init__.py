"""JSON API under `/api/v1`: the data and actions of the dashboard, for programs."""
