"""Parties that know different things about the same patients vote on them by name."""
