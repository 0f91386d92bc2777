"""Estimators for nodes: made by name, trained on private data, never sent anywhere.

Importing this package imports neither torch nor scikit-learn; `create` imports what the named
model needs.
"""

from rtc_flower.clients.models.catalogue import COMPOSITION, NAMES, composition, create
from rtc_flower.clients.models.estimator import Estimator

__all__ = ["COMPOSITION", "NAMES", "Estimator", "composition", "create"]
