"""Internal: what a folder is, and which base its adapter is for, judging by its own words."""
