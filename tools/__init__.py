"""Scripts of the development workflow."""
