"""Nodes: private data, models and the ClientApp that votes with them."""
