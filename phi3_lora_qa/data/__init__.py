"""Chat items, suites and training data: everything that a model is asked or taught."""
