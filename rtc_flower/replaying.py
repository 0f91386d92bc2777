"""Votes that somebody else collected, put through keys, ballots, ledger, stop rule and verify.

Crowd labels, or the answers of models that exist already, become a ledger as if they had come by
Flower. Its GENESIS says ``replay``, so that nobody takes it for votes of nodes: the keys are made
here, one per node, and thrown away with the server's, so that nothing can be appended later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rtc_flower.ballot import encode_meta, sign
from rtc_flower.entries import Enrolment, Task
from rtc_flower.errors import DataError, LedgerFullError, TaskError
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger, Posting
from rtc_flower.recorded import RecordedVotes, labels_of, read_truth, read_votes
from rtc_flower.samples import Samples
from rtc_flower.stopping import Rule
from rtc_flower.tally import How, Outcomes
from rtc_flower.verify import verify

__all__ = ["ReplayResult", "replay"]

_BY_RULE = (How.CERTAIN, How.CERTIFIED, How.LEAD)

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What the replayed votes decided.

    Attributes
    ----------
    nodes, samples, classes : int
    rule : str
    accuracy : float or None
        Share of samples whose outcome is the truth; None without one.
    agreement : float
        Share of the votes cast that are the outcome of their sample.
    abstentions : int
        Samples without a vote, over all nodes.
    decided : int
        Samples that the rule decided; the others got the longest fork when all had voted.
    mean_votes : float
        Ballots counted until a sample was decided; an undecided one counts them all.
    verify : str
        ``ok``, or what is wrong.
    ledger : str
        Path of the ledger.
    """

    nodes: int
    samples: int
    classes: int
    rule: str
    accuracy: float | None
    agreement: float
    abstentions: int
    decided: int
    mean_votes: float
    verify: str
    ledger: str


def replay(
    votes: Path,
    *,
    ledger: Path,
    truth: Path | None = None,
    rule: str = "certain",
    classes: Sequence[str] | None = None,
    inv_delta: int = 1_000,
    lead: int = 21,
    min_ballots: int = 1,
) -> ReplayResult:
    """Put the votes of a file into a new ledger, let the rule decide, and verify it.

    Parameters
    ----------
    votes : Path
        See `rtc_flower.recorded.read_votes`.
    ledger : Path
        File to make; never overwritten. Its head goes beside it, with ``.HEAD`` appended.
    truth : Path, optional
        See `rtc_flower.recorded.read_truth`. Never seen by the ledger.
    rule : str
        ``certain``, ``certified``, ``paper`` or ``all``. Ballots are counted in the file's order
        under ``certain`` and ``all``, else in the order of invitation, which TASK draws.
    classes : sequence of str, optional
        Names of all classes; those of the file (and of the truth) by default.
    inv_delta, lead, min_ballots : int
        See `rtc_flower.stopping.StopRule`.

    Returns
    -------
    ReplayResult

    Raises
    ------
    DataError
        If a file cannot be read as votes or truth; says where.
    TaskError
        If the rule or one of its parameters is out of range.
    LedgerError
        If the ledger exists, or the disk refuses it. Nothing is left behind by any error.
    """
    if rule not in {member.name.lower() for member in Rule}:
        raise TaskError(f"rule must be certain, certified, paper or all, got {rule!r}")
    known = None if truth is None else read_truth(truth)
    recorded = read_votes(votes, classes=classes, truth=known)
    try:
        right = None if known is None else labels_of(known, recorded)
    except DataError as error:
        raise DataError(f"{truth} and {votes}: {error}") from error
    posting = _posting(recorded, Rule[rule.upper()], inv_delta, lead, min_ballots)
    try:
        outcomes = _vote(ledger, recorded, posting)
    except LedgerFullError as error:
        raise LedgerFullError(
            f"{ledger}: not written, the disk is full or failed ({error.__cause__}); nothing is "
            "left of it. Make room, or name a file on another disk"
        ) from error
    return _result(ledger, recorded, outcomes, rule, right)


def _posting(
    recorded: RecordedVotes, rule: Rule, inv_delta: int, lead: int, min_ballots: int
) -> Posting:
    samples = Samples(ids=recorded.samples)
    draft = Task(
        samples_hash=samples.digest(),
        n=len(samples),
        class_names=tuple(recorded.classes),
        close_min=len(samples),
        kind="replay",
        rule=rule,
        order=rule.usual_order,
        inv_delta=inv_delta,
        lead=lead,
        min_ballots=min_ballots,
    )
    posting = Posting(draft, samples.encode())
    posting.task(range(len(recorded.nodes)), len(recorded.nodes))
    return posting


def _vote(path: Path, recorded: RecordedVotes, posting: Posting) -> Outcomes:
    """Enrol a key per node, post the task, and append every ballot, late ones too."""
    head = path.parent / f"{path.name}.HEAD"
    book = Ledger.create(path, SigningKey.generate(), enrolment=Enrolment.REPLAY, head_file=head)
    try:
        with book:
            keys = [SigningKey.generate() for _ in recorded.nodes]
            newcomers = [(k.public, name) for k, name in zip(keys, recorded.nodes, strict=True)]
            book.enrol(newcomers)
            tally = book.post(posting, electorate=[key.public for key in keys])
            book.invite(len(keys))
            codec, meta = tally.task.codec, encode_meta("replayed votes")
            seen = (book.replay.size, book.replay.roots[-1])
            for key, row in zip(keys, recorded.votes, strict=True):
                ballot = sign(
                    key,
                    codec.encode(np.where(row < 0, codec.abstain, row)),
                    ledger_id=book.replay.ledger_id,
                    task_id=tally.task_id,
                    n=tally.task.n,
                    meta=meta,
                    seen=seen,
                )
                book.submit(ballot.encode(), voter=key.public)
            return tally.outcomes()
    except BaseException:
        path.unlink(missing_ok=True)
        head.unlink(missing_ok=True)
        raise


def _result(
    ledger: Path, recorded: RecordedVotes, outcomes: Outcomes, rule: str, right: Ints | None
) -> ReplayResult:
    cast = recorded.votes >= 0
    chosen = outcomes.classes.astype(np.int64)
    decided = np.isin(outcomes.how, _BY_RULE)
    used = np.where(decided, outcomes.decided_at, len(recorded.nodes))
    return ReplayResult(
        nodes=len(recorded.nodes),
        samples=len(recorded.samples),
        classes=len(recorded.classes),
        rule=rule,
        accuracy=None if right is None else float((chosen == right).mean()),
        agreement=float((recorded.votes == chosen)[cast].mean()),
        abstentions=int((~cast).sum()),
        decided=int(decided.sum()),
        mean_votes=float(used.mean()),
        verify=verify(ledger).summary,
        ledger=str(ledger),
    )
