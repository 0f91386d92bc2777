"""Other people's votes through the ledger: what comes out, and every kind of bad file."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtc_flower.entries import Enrolment, Genesis, decode_leaf
from rtc_flower.errors import DataError, LedgerError, LedgerFullError, RtcFlowerError, TaskError
from rtc_flower.files import reading
from rtc_flower.reading import list_roster, outcome_rows, votes_of
from rtc_flower.recorded import read_votes
from rtc_flower.replaying import ReplayResult, replay
from rtc_flower.stopping import Rule, StopRule, stop_positions
from rtc_flower.verify import verify

CROWD = """node,sample,class
ann,x1,cat
ben,x1,cat
cay,x1,dog
ann,x2,dog
ben,x2,dog
cay,x2,dog
ann,x3,cow
cay,x3,cow
"""
TRUTH = "sample,class\nx1,cat\nx3,cow\nx2,cat\n"


def written(folder: Path, text: str, name: str = "votes.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def arrays(folder: Path, name: str = "votes.npz", **kept: Any) -> Path:
    path = folder / name
    np.savez(path, **kept)
    return path


def replayed(folder: Path, votes: Path, **options: Any) -> ReplayResult:
    return replay(votes, ledger=folder / "ledger.db", **options)


def matrix(nodes: int, samples: int, k: int, *, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, samples)
    wrong = rng.integers(0, k, (nodes, samples))
    return np.where(rng.random((nodes, samples)) < 0.8, truth, wrong), truth


def test_crowd_labels_become_outcomes_in_a_ledger_that_says_replay(tmp_path: Path) -> None:
    truth = written(tmp_path, TRUTH, "truth.csv")
    result = replayed(tmp_path, written(tmp_path, CROWD), truth=truth, rule="all")
    assert (result.nodes, result.samples, result.classes) == (3, 3, 3)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.agreement == pytest.approx(7 / 8)
    assert (result.abstentions, result.decided, result.mean_votes) == (1, 0, 3.0)
    assert result.verify == "ok"
    path = Path(result.ledger)
    assert [row["class_name"] for row in outcome_rows(path, 1)] == ["cat", "dog", "cow"]
    assert [row["id"] for row in outcome_rows(path, 1)] == ["x1", "x2", "x3"]
    assert {row["name"] for row in list_roster(path)} == {"ann", "ben", "cay"}
    with reading(path) as connection:
        leaf = connection.execute("SELECT leaf FROM entry WHERE idx = 0").fetchone()[0]
    genesis, _ = decode_leaf(leaf)
    assert isinstance(genesis, Genesis)
    assert genesis.enrolment is Enrolment.REPLAY
    assert any("did not come from nodes" in note for note in verify(path).notes)


@pytest.mark.parametrize("rule", ["certain", "certified", "paper", "all"])
def test_every_rule_gives_what_the_plain_matrix_gives(tmp_path: Path, rule: str) -> None:
    votes, truth = matrix(25, 60, 4)
    votes[3, :20] = -1
    path = arrays(tmp_path, votes=votes)
    known = arrays(tmp_path, "truth.npz", truth=truth)
    result = replayed(tmp_path, path, truth=known, rule=rule, inv_delta=100, lead=5)
    assert result.verify == "ok"
    assert result.abstentions == 20
    cast = votes_of(Path(result.ledger), 1)
    assert sorted(cast.names) == [f"node-{i:02}" for i in range(25)]
    for name, row in zip(cast.names, cast.votes, strict=True):
        assert (row == votes[int(name[-2:])]).all()
    # Log order is counting order under arrival; the other rules draw theirs.
    plain = StopRule(Rule[rule.upper()], 4, inv_delta=100, lead=5)
    if rule in ("certain", "all"):
        stopped = stop_positions(votes, plain)
        assert result.decided == np.count_nonzero(stopped.position)
        used = np.where(stopped.position > 0, stopped.position, 25)
        assert result.mean_votes == pytest.approx(used.mean())
        assert result.accuracy == pytest.approx((stopped.outcome == truth).mean())
    else:
        assert result.decided > 50
        assert 5 <= result.mean_votes < 25
        assert result.accuracy is not None
        assert result.accuracy > 0.95


def test_array_and_rows_of_the_same_votes_agree(tmp_path: Path) -> None:
    votes, truth = matrix(5, 12, 3)
    votes[2, 4] = -7
    lines = [f"n{i},{j},{votes[i, j]}" for i in range(5) for j in range(12) if votes[i, j] >= 0]
    text = written(tmp_path, "\n".join(["node,sample,class", *lines]))
    np.save(tmp_path / "truth.npy", truth)
    options: dict[str, Any] = {"truth": tmp_path / "truth.npy", "rule": "all"}
    one = replay(text, ledger=tmp_path / "a.db", **options)
    two = replay(arrays(tmp_path, votes=votes), ledger=tmp_path / "b.db", **options)
    assert (one.accuracy, one.agreement, one.abstentions) == (
        two.accuracy,
        two.agreement,
        two.abstentions,
    )
    assert one.abstentions == 1


def test_named_classes_and_other_columns(tmp_path: Path) -> None:
    text = "when,class,sample,node\n1,b,s,n1\n2,b,s,n2\n"
    recorded = read_votes(written(tmp_path, text), classes=["a", "b", "c"])
    assert recorded.classes == ("a", "b", "c")
    assert recorded.votes.tolist() == [[1], [1]]
    rows = "\ufeffnode,sample,class\nn1,s,10\nn2,s,9\n"
    assert read_votes(written(tmp_path, rows)).classes == ("9", "10")


def test_a_class_that_only_the_truth_has_is_a_class(tmp_path: Path) -> None:
    truth = written(tmp_path, "sample,class\nx1,bird\nx2,dog\nx3,cow\n", "truth.csv")
    result = replayed(tmp_path, written(tmp_path, CROWD), truth=truth)
    assert result.classes == 4
    assert result.accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("node,sample,class\n", "no rows"),
        ("ann,x1,cat\nben,x1,cat\n", "expected a header"),
        ("node,sample\nann,x1\n", "expected a header"),
        ("node,sample,class\nann,x1,cat\nann,x1,dog\n", "line 3: node 'ann' votes twice"),
        ("node,sample,class\nann,x1,\n", "line 2: class is empty"),
        ("node,sample,class\nann,x1\n", "line 2: class is empty"),
        ("node,sample,class\n" + "n" * 65 + ",x1,cat\n", "64 bytes"),
        ('node,sample,class\n"ann,x1,cat\n', "expected a CSV file"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        replayed(tmp_path, written(tmp_path, text))
    assert not (tmp_path / "ledger.db").exists()


def test_an_unknown_class_is_refused(tmp_path: Path) -> None:
    votes = written(tmp_path, CROWD)
    with pytest.raises(DataError, match="line 4: unknown class 'dog'"):
        replayed(tmp_path, votes, classes=["cat", "cow"])
    with pytest.raises(DataError, match="below 2, got 2 of node 1 for sample 0"):
        replayed(tmp_path, arrays(tmp_path, votes=np.array([[0], [2]])), classes=["a", "b"])


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"other": np.zeros((2, 2), int)}, "'votes'"),
        ({"votes": np.zeros((2, 2))}, "must be integers"),
        ({"votes": np.zeros(4, int)}, "nodes x samples"),
        ({"votes": np.zeros((0, 4), int)}, "nodes x samples"),
        ({"votes": np.array([[0, -1], [1, -1]])}, "nobody voted on 1 of 2 samples, first '1'"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, kept: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        replayed(tmp_path, arrays(tmp_path, **kept))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read \(No such file"):
        replayed(tmp_path, tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="expected a NumPy file"):
        replayed(tmp_path, written(tmp_path, "no zip", "votes.npz"))
    with pytest.raises(DataError, match="expected a NumPy file"):
        replayed(tmp_path, written(tmp_path, "", "votes.npz"))
    (tmp_path / "latin.csv").write_bytes(b"node,sample,class\nann,x1,k\xe4se\n")
    with pytest.raises(DataError, match="expected a CSV file"):
        replayed(tmp_path, tmp_path / "latin.csv")
    with pytest.raises(DataError, match="found a device"):
        replayed(tmp_path, Path("/dev/zero"))


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ("sample,class\nx1,cat\n", "1 samples, the votes have 3"),
        ("sample,class\nx1,cat\nx2,cat\nx9,cat\n", "do not fit"),
        ("sample,class\nx1,cat\nx1,cat\nx3,cat\n", "stands there twice"),
        ("", "is empty"),
    ],
)
def test_a_truth_that_does_not_fit_is_refused(tmp_path: Path, truth: str, said: str) -> None:
    votes = written(tmp_path, CROWD)
    with pytest.raises(DataError, match=said) as refused:
        replayed(tmp_path, votes, truth=written(tmp_path, truth, "truth.csv"))
    assert "truth.csv" in str(refused.value)
    assert ("do not fit" in said or "votes have" in said) == ("votes.csv" in str(refused.value))
    assert not (tmp_path / "ledger.db").exists()


def test_parameters_and_existing_ledgers_are_refused(tmp_path: Path) -> None:
    votes = written(tmp_path, CROWD)
    refused: list[dict[str, Any]] = [{"rule": "most"}, {"min_ballots": 4}, {"inv_delta": 1}]
    for options in refused:
        with pytest.raises(TaskError):
            replayed(tmp_path, votes, **options)
    assert list(tmp_path.iterdir()) == [votes]
    one_class = written(tmp_path, "node,sample,class\nann,x1,cat\n", "one.csv")
    with pytest.raises(TaskError, match="classes must be an integer in 2"):
        replayed(tmp_path, one_class)
    replayed(tmp_path, votes)
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(LedgerError, match="exists already"):
        replayed(tmp_path, votes)
    assert (tmp_path / "ledger.db").read_bytes() == before


def test_a_failure_on_the_way_leaves_no_half_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    votes = written(tmp_path, CROWD)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise LedgerError("the disk is full")

    monkeypatch.setattr("rtc_flower.ledger.Ledger.invite", refuse)
    with pytest.raises(RtcFlowerError, match="disk is full"):
        replayed(tmp_path, votes)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"votes.csv", "ledger.db.lock"}  # the lock has no content and is taken again


@pytest.mark.parametrize("size", [8_192, 2**18])  # within GENESIS, and while ballots come
def test_a_full_disk_is_named_and_no_ledger_is_left(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(0)
    votes = arrays(tmp_path, votes=rng.integers(0, 3, (9, 2_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal
    try:
        with pytest.raises(LedgerFullError, match=r"not written, .*; nothing is left of it"):
            replayed(tmp_path, votes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in tmp_path.iterdir()} <= {"votes.npz", "ledger.db.lock"}
