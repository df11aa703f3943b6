"""Web server: dashboard, JSON API, feeds, metrics and health checks over HTTP."""
