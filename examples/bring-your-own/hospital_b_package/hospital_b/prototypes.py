"""A classifier in a dozen lines of numpy: no torch, no scikit-learn, no rtc-flower."""

import numpy as np


class Prototypes:
    """The class whose typical patient is nearest, measure by measure."""

    description = "hospital B's prototypes"

    def fit(self, X, y):
        self.centre, self.spread = X.mean(axis=0), X.std(axis=0) + 1e-9
        self.classes = np.unique(y)
        scaled = (X - self.centre) / self.spread
        self.typical = np.stack([np.median(scaled[y == c], axis=0) for c in self.classes])
        return self

    def predict(self, X):
        scaled = (X - self.centre) / self.spread
        distance = np.abs(scaled[:, None] - self.typical).sum(axis=2)
        return self.classes[distance.argmin(axis=1)]
