"""Reports: what librarians ask of the catalogue and of the circulation, for all user interfaces alike."""
