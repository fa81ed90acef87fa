"""Reports that people look at: the likely cause of a difference, pages, graphs."""
