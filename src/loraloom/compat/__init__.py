"""The flags of other trainers, carried out by this one: a command that worked there works here."""
