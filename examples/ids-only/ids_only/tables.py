"""Make the tables that the parties would have: ``python -m ids_only.tables /abs/folder``.

Scikit-learn's breast cancer records, cut the other way than in the example bring-your-own: every
party has all patients and a fifth of the measurements. All know the diagnosis of the same first
patients; the others are to be decided. What they really were is put into ``truth.npz``.
"""

import sys
from pathlib import Path

import numpy as np

KNOWN = 100  # patients whose diagnosis everybody knows
PARTIES = ("ward", "laboratory", "radiology", "pathology", "archive")


def write_tables(folder: Path, *, seed: int = 0) -> None:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(y))
    X, y = X[order], y[order]
    patients = np.array([f"patient-{number:04d}" for number in range(len(y))])
    folder.mkdir(parents=True, exist_ok=True)
    for party, name in enumerate(PARTIES):
        # Ten measurements, each with its mean, its error and its worst value.
        columns = [column + part for column in (party, party + 5) for part in (0, 10, 20)]
        np.savez(
            folder / f"{name}.npz",
            patients=patients,
            measured=X[:, columns],
            known=np.arange(KNOWN),
            diagnosis=y[:KNOWN],
        )
    (folder / "patients.txt").write_text("\n".join(patients[KNOWN:]) + "\n")
    np.savez(folder / "truth.npz", y=y[KNOWN:])


if __name__ == "__main__":
    write_tables(Path(sys.argv[1]))
