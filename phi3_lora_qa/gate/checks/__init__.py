"""Internal: the checks, one module for each stage; ``checks()`` returns a stage's checks."""
