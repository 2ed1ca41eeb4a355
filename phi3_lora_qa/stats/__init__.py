"""Paired comparisons of base and tuned model: intervals, limits, early stopping, multiple tests."""
