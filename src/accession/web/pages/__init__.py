"""Pages of the dashboard, rendered on the server from the same functions as the JSON API."""
