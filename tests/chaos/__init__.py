"""What the world does to Accession, and how it takes it."""
