"""The dashboard: pages rendered on the server, on the functions that the API answers with."""
