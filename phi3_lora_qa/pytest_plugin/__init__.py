"""Internal: the pytest plugin: options, the gate as test items, fixtures, reports, exit status."""
