"""The pytest plugin: options, the gate as test items, fixtures, reports and the exit status."""
