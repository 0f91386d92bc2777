"""A Flower app that asks every node one question."""
