"""Collections, which are accounts with the vendor, and their encrypted keys."""
