"""What Accession's speed is, measured against the sandbox vendor."""
