"""What does the vendor say? A signed client, MARC pages, item documents, and errors that say what to do."""
