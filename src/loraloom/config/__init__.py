"""The typed tree of one run; reading, overriding and comparing it."""
