"""Everything that can be added without an edit elsewhere; loaded by `loraloom.plugins` only."""
