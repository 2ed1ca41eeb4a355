"""The exit codes of the commands and of gate runs, other than 0 (accepted) and 1 (rejected)."""

BAD_INPUT = 2
"""There is no verdict: the input cannot be used, nothing was checked, or an error occurred."""

STOPPED = 130
"""The user stopped the command with Ctrl-C."""
