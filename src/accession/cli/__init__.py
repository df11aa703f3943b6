"""What can a person ask for? Commands, each thin over the folder that does the work."""
