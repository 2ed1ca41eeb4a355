"""Internal: the gate: the checks by stage, the list of those that must run, and the verdict.

Nothing here depends on pytest. The plugin gets the list of checks from ``plan`` and runs each one;
``verdict`` decides from the results that the checks wrote to the journal.
"""
