"""Training recipes: ordinary use of the library, not part of it."""
