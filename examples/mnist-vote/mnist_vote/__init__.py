"""Nodes with their own models and data vote on MNIST."""
