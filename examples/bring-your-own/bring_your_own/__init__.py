"""Hospitals vote on tumours, each with a model of its own."""
