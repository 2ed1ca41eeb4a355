"""Internal: the checks, by stage; each module's ``checks()`` returns its checks."""
