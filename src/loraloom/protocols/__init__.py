"""Records and interfaces between the rooms. Nothing here computes."""
