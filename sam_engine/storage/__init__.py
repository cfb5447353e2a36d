"""Where bytes lie: the one seam, `Store`, and those that implement it."""
