"""Authentication: users, API tokens, passwords and roles."""
