"""Flower strategies: Proof of Prediction."""
