"""Taking secrets out of texts, for whatever is kept or leaves: memories, and what front doors say."""
