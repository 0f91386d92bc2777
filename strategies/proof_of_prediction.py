"""Proof of Prediction: a Flower strategy that collects votes instead of weights.

Each task of the pool (the paper's Fig. 2) is one round: TASK is posted, nodes are invited, their
signed ballots are put into the ledger as they come, and the longest fork of every sample is its
outcome.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rtc_flower.encoding import pack_text
from rtc_flower.entries import Task
from rtc_flower.errors import FormatError, QuorumError, TaskError
from rtc_flower.ledger import Ledger, Posting
from rtc_flower.rules import MAX_CLASSES, Order, Rule, check_range
from rtc_flower.samples import Samples
from rtc_flower.state import open_ledger
from rtc_flower.strategies.audit_round import Audited, AuditRound
from rtc_flower.strategies.collector import Collector, Reply
from rtc_flower.strategies.directory import Directory
from rtc_flower.strategies.events import Event
from rtc_flower.strategies.pool import PoolPosition
from rtc_flower.strategies.vote_round import VoteRound
from rtc_flower.tally import Outcomes

__all__ = ["Decided", "ProofOfPrediction", "VoteResult", "VoteTask"]

_LOG = logging.getLogger("flwr.rtc_flower")
_REFRESH = 1.0  # seconds between two looks at who is online
_AUDITS = ("off", "light", "full")
_WAIT = 0.2  # longest wait for a reply before deadlines are looked at again


@dataclass(frozen=True, eq=False)
class VoteTask:
    """A batch of unlabelled samples to decide.

    Parameters
    ----------
    samples : Samples or ndarray (n, ...)
    classes : int or sequence of str
        Number of classes, or their names.
    kind : str
        Kind of contract asked for: a node may hold several.

    Raises
    ------
    TaskError
        If there is no sample, or the classes are too few, too many or repeat.
    """

    samples: Samples | npt.NDArray[Any]
    classes: int | Sequence[str]
    kind: str = "default"

    @property
    def sample_set(self) -> Samples:
        """The samples with their encoding."""
        if isinstance(self.samples, Samples):
            return self.samples
        return Samples(np.asarray(self.samples))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; their indices when only a number was given."""
        if isinstance(self.classes, str):
            raise TaskError(f"classes must be a number or a list of names, got {self.classes!r}")
        if isinstance(self.classes, (int, np.integer)):
            check_range("classes", int(self.classes), 2, MAX_CLASSES)
            return tuple(map(str, range(self.classes)))
        return tuple(self.classes)


@dataclass(frozen=True)
class Decided:
    """A closed task.

    Attributes
    ----------
    number : int
        Number of the task in the ledger, from 1.
    task_id : bytes
    outcomes : Outcomes
        Classes, support, runner-up and what decided each sample.
    reason : str
        Why it closed.
    ballots : dict of str to int
        Log index of every ballot stored when the task closed, by node.
    absent : dict of str to str
        Why a node has none, by node.
    refusals : dict of str to int
    idle : tuple of str
        Nodes that were never invited.
    audits : tuple of Audited
        What nodes found in the audit round; empty when it is off.
    tips_hash : bytes
        Digest of the fork tips, as CLOSE states it.
    """

    number: int
    task_id: bytes
    outcomes: Outcomes
    reason: str
    ballots: dict[str, int]
    absent: dict[str, str]
    refusals: dict[str, int]
    idle: tuple[str, ...]
    tips_hash: bytes
    audits: tuple[Audited, ...] = ()

    @property
    def cosigned(self) -> tuple[int, int]:
        """How many nodes cosigned the checkpoint after CLOSE, of how many that voted or audited."""
        nodes = {audit.node for audit in self.audits}.union(self.ballots)
        return sum(audit.cosigned for audit in self.audits), len(nodes)


@dataclass
class VoteResult(Result):
    """Flower's `Result` with what was decided.

    Attributes
    ----------
    tasks : list of Decided
    ledger : Path
    checkpoint : str
        The ledger's head: a signed note. Keep it elsewhere: against it any later change shows.
    refused_nodes : dict of int to str
        Nodes that were not let in, by Flower id, and why.
    ledger_seconds : float
        Time spent inside the ledger.
    """

    tasks: list[Decided] = field(default_factory=list)
    ledger: Path = Path()
    checkpoint: str = ""
    refused_nodes: dict[int, str] = field(default_factory=dict)
    ledger_seconds: float = 0.0


def _silent(event: Event) -> None:
    return None


class ProofOfPrediction(Strategy):
    """Collect signed votes and let the longest fork decide (the paper's section 3).

    Parameters
    ----------
    tasks : sequence of VoteTask
        The task pool; one round each.
    state_dir : Path
        Absolute; holds ``server.key``, ``ledger.db`` and ``HEAD``.
    min_nodes : int
        Nodes that must be connected before a task is posted. No quorum: a task closes with the
        ballots that came (``Decided.ballots``), and a warning says where they are fewer.
    wait_seconds : float
        How long they are waited for; after a restart, those who owe the open task a ballot.
    deadline : float
        Seconds that an invited node has to answer.
    rule : str
        ``certain`` (no later vote can change it), ``certified``, ``paper`` or ``all``.
    order : str, optional
        ``arrival`` or ``invitation``; the rule's usual order by default.
    inv_delta, lead, min_ballots : int
        Parameters of the rules; see `rtc_flower.rules.StopRule`.
    close_when : float
        Share of decided samples that closes a task; in (0, 1].
    wave_size : int, optional
        Nodes invited at a time; everyone at once by default.
    invite_ahead : int
        Further waves invited while a node that has used half its time holds the count up.
    audit : str
        ``off``; ``light``: nodes check their receipts and that the log continues what they have
        seen; ``full``: they get every entry, repeat every decision and cosign.
    audit_seconds : float
        How long verdicts are waited for.
    head_file : Path, optional
        Where the ledger's head is kept as well; better on another disk.
    on_event : callable, optional
        Told everything that happens, for progress displays.
    collector : callable, optional
        ``collector(grid) -> Collector``; for simulations with a clock of their own.
    clock, sleep : callable
        Monotonic seconds, and how to wait.

    Raises
    ------
    TaskError
        If a parameter is out of range; nothing has been written then.
    """

    def __init__(
        self,
        tasks: Sequence[VoteTask],
        state_dir: Path,
        *,
        min_nodes: int = 2,
        wait_seconds: float = 120.0,
        deadline: float = 600.0,
        rule: str = "certain",
        order: str | None = None,
        inv_delta: int = 1000,
        lead: int = 21,
        min_ballots: int = 1,
        close_when: float = 1.0,
        wave_size: int | None = None,
        invite_ahead: int = 1,
        audit: str = "light",
        audit_seconds: float = 120.0,
        head_file: Path | None = None,
        on_event: Callable[[Event], None] = _silent,
        collector: Callable[[Grid], Collector] = Collector,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.tasks, self.state_dir = list(tasks), Path(state_dir)
        if not self.state_dir.is_absolute():
            raise TaskError(
                f"state_dir must be an absolute path, got {str(state_dir)!r}: the working "
                "directory of a ServerApp is that of its SuperLink. In the examples it is the run "
                "config's state-dir: flwr run ... --run-config 'state-dir=\"/absolute/path\"'"
            )
        if min_nodes < 1:
            raise TaskError(f"min_nodes must be at least 1, got {min_nodes}")
        if not wait_seconds >= 0 or not audit_seconds >= 0:  # NaN would wait for ever
            waits = f"{wait_seconds} and {audit_seconds}"
            raise TaskError(f"wait_seconds and audit_seconds must be at least 0, got {waits}")
        if wave_size is not None and wave_size < 1:
            raise TaskError(f"wave_size must be at least 1, got {wave_size}")
        if invite_ahead < 0:
            raise TaskError(f"invite_ahead must be at least 0, got {invite_ahead}")
        if not 0 < close_when <= 1:
            raise TaskError(f"close_when must be in (0, 1], got {close_when}")
        if audit not in _AUDITS:
            raise TaskError(f"audit must be one of {', '.join(_AUDITS)}, got {audit!r}")
        self.audit, self.audit_seconds = audit, audit_seconds
        self.min_nodes, self.wait_seconds = min_nodes, wait_seconds
        self.deadline = _checked_deadline(deadline)
        self.rule = _by_name(Rule, rule, "rule")
        self.order = _by_name(Order, order, "order") if order else None
        self.inv_delta, self.lead, self.min_ballots = inv_delta, lead, min_ballots
        self.close_when, self.head_file = close_when, head_file
        self.wave_size, self.invite_ahead = wave_size, invite_ahead
        self._on_event, self._make_collector = on_event, collector
        self._clock, self._sleep = clock, sleep
        self._postings = [self._posting(task) for task in self.tasks]

    def _posting(self, task: VoteTask) -> Posting:
        samples = task.sample_set
        draft = Task(
            samples_hash=samples.digest(),
            n=len(samples),
            class_names=tuple(task.class_names),
            kind=task.kind,
            rule=self.rule,
            order=self.rule.usual_order if self.order is None else self.order,
            inv_delta=self.inv_delta,
            lead=self.lead,
            min_ballots=self.min_ballots,
            close_min=int(np.ceil(self.close_when * len(samples))),
        )
        _check_texts(draft)
        posting = Posting(draft, samples.encode())
        posting.task(range(self.min_nodes), self.min_nodes)  # checks its parameters
        return posting

    # -- Flower's interface ---------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> VoteResult:
        """Run the task pool; finishes a task that a killed run left open first.

        Parameters
        ----------
        grid : Grid
        initial_arrays, train_config, evaluate_config, evaluate_fn
            Flower's; there are no weights here, so they are not used.
        num_rounds : int, optional
            Tasks to run; the whole pool by default.
        timeout : float, optional
            Seconds that an invited node has; `deadline` by default.

        Returns
        -------
        VoteResult

        Raises
        ------
        QuorumError
            If fewer than ``min_nodes`` nodes connect in time; nothing is posted then.
        LedgerError
            If the ledger is locked, damaged, older than its head, or the disk is full.
        KeyFormatError
            If ``state_dir`` is no folder that can be written, or others can read its key.
        TaskError
            If ``timeout`` is not above 0.
        """
        if timeout is not None:
            self.deadline = _checked_deadline(timeout)
        self.summary()
        with self._open() as ledger, self._make_collector(grid) as collector:
            session = _Session(self, grid, ledger, collector)
            return session.run(self._postings[:num_rounds])

    def _open(self) -> Ledger:
        return open_ledger(self.state_dir, head_file=self.head_file)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: `start` asks nodes one by one, as they come and as the ledger invites them."""
        return ()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Nothing: ballots go into the ledger as they come; no weights exist."""
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Nothing: there is no global model to evaluate."""
        return ()

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Nothing: see `configure_evaluate`."""
        return None

    def summary(self) -> None:
        """Log the configuration."""
        log(INFO, "\t├──> Proof of Prediction: rule %s, tasks: %d", self._rule(), len(self.tasks))
        log(INFO, "\t├──> at least %d nodes, %.0f s each", self.min_nodes, self.deadline)
        log(INFO, "\t└──> ledger %s", self.state_dir / "ledger.db")

    def _rule(self) -> str:
        order = f", order {self.order.name.lower()}" if self.order is not None else ""
        return f"{self.rule.name.lower()}{order}"


class _Session:
    """One `start`: the nodes that are there, and one round after another."""

    def __init__(
        self, strategy: ProofOfPrediction, grid: Grid, ledger: Ledger, collector: Collector
    ) -> None:
        self._strategy, self._ledger, self._collector = strategy, ledger, collector
        self._directory = Directory(grid, collector, ledger, clock=strategy._clock)
        self._refresh_at = 0.0
        self._round: VoteRound | None = None
        self._audit: AuditRound | None = None
        self._bundle = _bundle_of(grid)

    def run(self, postings: list[Posting]) -> VoteResult:
        decided = []
        pool = PoolPosition(self._ledger.path.with_name("pool.json"), postings)
        posted = pool.posted(self._ledger.replay.number)
        if self._ledger.replay.open_task is not None:
            self._wait_for_voters()
            decided.append(self._vote())
            self._directory.part_with_revoked()  # a change takes effect with the next task
        if posted == 0:
            pool.begin(self._ledger.replay.number + 1)
        for posting in postings[posted:]:
            self._wait_for_nodes(needed=self._strategy.min_nodes)
            self._directory.enrol()
            self._ledger.post(posting, electorate=self._directory.online())
            self._greet_unheard()
            decided.append(self._vote())
        pool.end()
        return VoteResult(
            tasks=decided,
            ledger=self._ledger.path,
            checkpoint=self._ledger.checkpoint,
            refused_nodes=dict(self._directory.refused),
            ledger_seconds=self._ledger.seconds,
            train_metrics_clientapp={d.number: _metrics(d) for d in decided},
        )

    def _greet_unheard(self) -> None:
        """Greet those anew whose answer to the last task or audit is still on its way.

        What such a node has seen by now is not known, and a proof from elsewhere would fail.
        """
        unheard = self._round.unheard() if self._round is not None else set()
        if self._audit is not None:
            unheard |= self._audit.unheard()
        for voter in unheard:
            self._directory.drop(voter)

    def _wait(self, what: str, ready: Callable[[], bool]) -> bool:
        """Wait up to ``wait_seconds`` until ``ready``; whether it came to that."""
        clock, seconds = self._strategy._clock, self._strategy.wait_seconds
        until, told = clock() + seconds, False
        while True:
            self._pump()
            if ready():
                return True
            if clock() >= until:
                return False
            if not told:
                _LOG.info("waiting up to %g s for %s", seconds, what)
                told = True

    def _wait_for_nodes(self, *, needed: int) -> None:
        online, seconds = self._directory.online, self._strategy.wait_seconds
        if not self._wait(f"{needed} nodes", lambda: len(online()) >= needed):
            refused = "".join(
                f"; node {n} is refused: {w}" for n, w in self._directory.refused.items()
            )
            raise QuorumError(
                f"{len(online())} of {needed} nodes connected within {seconds:g} s; nothing was "
                f"posted. Start more SuperNodes, or lower min-nodes or raise wait-seconds{refused}"
            )

    def _wait_for_voters(self) -> None:
        """Let those come back who owe the open task a ballot; deadlines settle who does not."""
        tally, replay = self._ledger.tally, self._ledger.replay
        unsettled = [voter for voter in tally.ranks if not tally.is_settled(voter)]
        owing = set(tally.outstanding() or unsettled)
        names = sorted(member.name for member in replay.roster.members if member.key in owing)
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        what = f"{', '.join(names[:5])}{more}, to vote on task {replay.number}, which was open"
        self._wait(what, lambda: owing <= set(self._directory.online()))

    def _vote(self) -> Decided:
        strategy, ledger = self._strategy, self._ledger
        self._round = VoteRound(
            ledger,
            self._directory,
            self._collector,
            deadline=strategy.deadline,
            wave_size=strategy.wave_size,
            invite_ahead=strategy.invite_ahead,
            clock=strategy._clock,
            bundle=self._bundle,
            on_event=strategy._on_event,
        )
        while not self._round.closed:
            self._round.step()
            if not self._round.closed:
                self._pump()
        decided = _decided(ledger)
        if decided.absent and ledger.tally.counted < strategy.min_nodes:
            what = (
                "task %d rests on %d ballots, fewer than the %d nodes it was posted for; absent: %s"
            )
            names = ", ".join(sorted(decided.absent))
            _LOG.warning(what, decided.number, ledger.tally.counted, strategy.min_nodes, names)
        return replace(decided, audits=self._audited())

    def _audited(self) -> tuple[Audited, ...]:
        """Run the audit round of the task that just closed."""
        strategy = self._strategy
        if strategy.audit == "off":
            return ()
        self._directory.refresh()
        self._audit = AuditRound(
            self._ledger,
            self._directory,
            self._collector,
            full=strategy.audit == "full",
            seconds=strategy.audit_seconds,
            clock=strategy._clock,
        )
        while not self._audit.done:
            self._pump()
        self._audit.close()
        return tuple(self._audit.found.values())

    def _pump(self) -> None:
        """Wait a moment for a reply, and hand it to whom it concerns."""
        now = self._strategy._clock()
        if now >= self._refresh_at:
            self._directory.refresh()
            self._refresh_at = now + _REFRESH
        if not self._collector.outstanding:
            self._strategy._sleep(_WAIT)
        for reply in iter(lambda: self._collector.reply(_WAIT), None):
            self._take(reply)
            if self._idle() or self._strategy._clock() >= self._refresh_at:
                return  # also while replies keep coming: deadlines and waves wait for nobody

    def _idle(self) -> bool:
        """Whether nothing that is waited for can still come."""
        voting = self._round is not None and not self._round.closed
        auditing = self._audit is not None and not self._audit.done
        return not voting and not auditing

    def _take(self, reply: Reply) -> None:
        if self._directory.take(reply) or (self._audit is not None and self._audit.take(reply)):
            return
        if self._round is None or not self._round.take(reply):
            source = reply.message.metadata.src_node_id if reply.message else 0
            names = {node.node_id: node.name for node in self._directory.nodes.values()}
            what = "a reply of %s that nobody waits for any more is ignored: %s"
            _LOG.warning(what, names.get(source, "a node"), reply.kind.value)
        elif self._audit is not None and not self._audit.done:
            self._audit.ask()


def _decided(ledger: Ledger) -> Decided:
    tally = ledger.tally
    if tally.closed is None:
        raise RuntimeError("the task is open")
    members = ledger.replay.roster.members
    names = {member.key: member.name for member in members}
    return Decided(
        number=ledger.replay.number,
        task_id=tally.task_id,
        outcomes=tally.outcomes(),
        reason=tally.closed.reason.name.lower(),
        ballots={names[key]: index for key, index in tally.ballots.items()},
        absent={names[key]: reason.name.lower() for key, reason in tally.absent.items()},
        refusals={names[key]: count for key, count in tally.refusals.items()},
        idle=tuple(names[key] for key in tally.ranks[tally.invited :]),
        tips_hash=tally.closed.tips_hash,
    )


def _metrics(decided: Decided) -> MetricRecord:
    return MetricRecord(
        {
            "ballots": len(decided.ballots),
            "absent": len(decided.absent),
            "refusals": sum(decided.refusals.values()),
            "samples": len(decided.outcomes.classes),
            "mean-support": float(decided.outcomes.support.mean()),
        }
    )


def _bundle_of(grid: Grid) -> bytes:
    """SHA-256 of the app bundle that runs, where Flower tells."""
    try:
        return bytes.fromhex(grid.run.fab_hash)[:32]
    except (AttributeError, ValueError, TypeError):
        return b""


def _checked_deadline(seconds: float) -> float:
    """Check that a silent node is not waited for without end."""
    if not 0 < seconds < math.inf:
        raise TaskError(f"deadline must be above 0 seconds, got {seconds}")
    return seconds


def _check_texts(draft: Task) -> None:
    """Check now what TASK could not be written with once a ledger is there."""
    for text in (draft.kind, *draft.class_names):
        try:
            pack_text(text)
        except (AttributeError, UnicodeError, FormatError) as error:
            raise TaskError(
                f"kind and class names must be texts of at most 255 bytes, got {text!r:.60}"
            ) from error


def _by_name(kind: type[Any], name: str, what: str) -> Any:
    try:
        return kind[name.upper()]
    except KeyError:
        known = ", ".join(member.name.lower() for member in kind)
        raise TaskError(f"{what} must be one of {known}, got {name!r}") from None
