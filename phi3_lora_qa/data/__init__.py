"""Chat items, suites, thresholds and training data."""
