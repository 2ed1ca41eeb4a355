"""Internal: paired comparisons: intervals, limits, early stopping, multiple testing."""
