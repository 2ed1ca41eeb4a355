"""Internal: the gate: the checks by stage, the list of what must run, and the verdict.

Nothing here knows pytest. The plugin asks ``plan`` what must run, runs each check, and lets
``verdict`` judge what the checks themselves wrote into the journal.
"""
