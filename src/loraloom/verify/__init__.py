"""Best-of-N and repair: images chosen and corrected by a domain's verifier."""
