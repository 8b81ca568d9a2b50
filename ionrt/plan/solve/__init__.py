"""From entries to weights: products, the problem, its solution."""
