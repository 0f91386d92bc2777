"""Vote tasks and plain Flower round trips in turn."""
