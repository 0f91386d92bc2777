"""Federated averaging of the benchmarks' plain CNN."""
