"""Which images are compared, who judges, and what comes of it."""
