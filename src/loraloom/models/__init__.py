"""Open a model: resolve its source once, pick its family, keep its modules."""
