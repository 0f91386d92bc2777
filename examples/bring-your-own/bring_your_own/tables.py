"""Make the tables that the hospitals would have: ``python -m bring_your_own.tables /abs/folder``.

Scikit-learn's breast cancer records, dealt to three hospitals. The records that are left are the
samples to decide; what they really were is put into a file of its own, for whoever wants to see
how well the vote did.
"""

import sys
from pathlib import Path

import numpy as np

PATIENTS = 40  # of each hospital
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")


def write_tables(folder: Path, *, seed: int = 0) -> None:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(y))
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(HOSPITALS):
        rows = order[number * PATIENTS : (number + 1) * PATIENTS]
        np.savez(folder / f"{name}.npz", X=X[rows], y=y[rows])
    rest = order[len(HOSPITALS) * PATIENTS :]
    np.savez(folder / "samples.npz", X=X[rest])
    np.savez(folder / "truth.npz", y=y[rest])


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
