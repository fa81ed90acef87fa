"""For tests and for the `compare` command: how near two arrays are, and must be."""
