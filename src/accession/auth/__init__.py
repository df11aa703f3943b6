"""Users, API tokens, passwords and roles."""
