"""Internal: chat items, suites, thresholds and training data."""
