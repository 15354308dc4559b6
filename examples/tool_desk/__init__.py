"""The demo: a desk that chooses tools and writes their arguments."""
