"""Collections, which are accounts with the vendor, and their encrypted account keys."""
