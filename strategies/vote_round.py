"""One task, from INVITE to CLOSE: who is asked, what comes back, and what becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from os import urandom

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from rtc_flower.consensus import MAX_REFUSALS
from rtc_flower.encoding import pack_bits
from rtc_flower.entries import AbsenceReason, Refusal
from rtc_flower.errors import BallotError, FormatError, SignatureError
from rtc_flower.ledger import Ledger
from rtc_flower.strategies.collector import Collector, Reply, ReplyKind
from rtc_flower.strategies.directory import Directory
from rtc_flower.strategies.events import Event, told
from rtc_flower.wire import (
    RECORD,
    SAMPLES,
    BallotReply,
    Declined,
    VoteRequest,
    join_leaves,
)

__all__ = ["VoteRound"]

_LOG = logging.getLogger("flwr.rtc_flower")


@dataclass(frozen=True, slots=True)
class _Asked:
    voter: bytes
    nonce: bytes
    sent_size: int


class VoteRound:
    """Runs the ledger's open task.

    Parameters
    ----------
    ledger, directory, collector
    deadline : float
        Seconds that an invited voter has.
    wave_size : int or None
        Ranks invited at a time; everyone at once by default.
    invite_ahead : int
        Further waves while a voter of low rank that has used half its time holds the count up.
    clock : callable
        Monotonic seconds.
    bundle : bytes
        Hash of the Flower app bundle that runs.
    on_event : callable
        Told everything that happens.
    """

    def __init__(
        self,
        ledger: Ledger,
        directory: Directory,
        collector: Collector,
        *,
        deadline: float,
        wave_size: int | None,
        invite_ahead: int,
        clock: Callable[[], float],
        bundle: bytes,
        on_event: Callable[[Event], None],
    ) -> None:
        self._ledger, self._directory, self._collector = ledger, directory, collector
        self._deadline, self._clock = deadline, clock
        self._wave_size, self._invite_ahead = wave_size, invite_ahead
        self._bundle, self._on_event = bundle, on_event
        self._tally = ledger.tally
        self._samples = RecordDict({SAMPLES: ConfigRecord({"data": ledger.samples()})})
        self._asked: dict[str, _Asked] = {}
        self._attempts: dict[bytes, int] = {}
        self._until: dict[bytes, float] = {}
        self._say("posted", detail=f"{len(self._tally.ranks)} voters")
        now = clock()
        for voter in self._tally.outstanding():  # a task that was open when the server restarted
            self._until[voter] = now + deadline

    @property
    def closed(self) -> bool:
        """Whether the task has its CLOSE."""
        return self._tally.closed is not None

    def unheard(self) -> set[bytes]:
        """Voters who were asked and have not answered."""
        return {asked.voter for asked in self._asked.values()}

    def step(self) -> None:
        """Invite, ask and expire whatever is due now."""
        self._expire()
        if not self.closed:
            self._invite()
            self._ask()

    def take(self, reply: Reply) -> bool:
        """Take a reply if it answers this task; return whether it did."""
        asked, before = self._asked.pop(reply.message_id, None), self.closed
        if asked is None:
            return False
        if reply.kind is ReplyKind.CONTENT and reply.message is not None:
            self._answer(asked, reply.message)
        else:
            why = reply.message.error.reason if reply.message else "unreachable"
            self._failed(asked.voter, told(why))
        if self.closed and not before:
            self._say("closed", detail=self._tally.closed.reason.name.lower())  # type: ignore[union-attr]
        return True

    # -- asking ---------------------------------------------------------------------------

    def _invite(self) -> None:
        tally = self._tally
        left = len(tally.ranks) - tally.invited
        size = self._wave_size or len(tally.ranks)
        if not left:
            return
        ahead = tally.invited - tally.passed
        settled = all(tally.is_settled(voter) for voter in tally.ranks[: tally.invited])
        if settled or (self._held_up() and ahead < size * (1 + self._invite_ahead)):
            self._ledger.invite(min(size, left))
            until = self._clock() + self._deadline
            for voter in tally.outstanding():
                self._until.setdefault(voter, until)

    def _held_up(self) -> bool:
        """Whether a voter that has used half its time keeps settled ones from being counted."""
        tally = self._tally
        if not tally.task.by_invitation or tally.passed >= tally.invited:
            return False
        if self._clock() < self._until[tally.ranks[tally.passed]] - self._deadline / 2:
            return False
        return any(tally.is_settled(voter) for voter in tally.ranks[tally.passed : tally.invited])

    def _ask(self) -> None:
        """Send the task to every invited voter who owes a ballot and is not being asked."""
        online = self._directory.online()
        being_asked = {asked.voter: mid for mid, asked in self._asked.items()}
        batch = []
        for voter in self._tally.outstanding():
            node = online.get(voter)
            if node is None or voter in being_asked or self._exhausted(voter):
                continue
            batch.append((voter, node.node_id, self._request(voter, node.seen_size)))
        if batch:
            # By Flower's id, not by rank, which is random: a simulation can so be repeated.
            self._send(sorted(batch, key=lambda asked: asked[1]))

    def _exhausted(self, voter: bytes) -> bool:
        return self._attempts.get(voter, 0) >= MAX_REFUSALS

    def _request(self, voter: bytes, seen_size: int) -> VoteRequest:
        ledger, tally = self._ledger, self._tally
        tree = ledger.replay.tree
        return VoteRequest(
            genesis=ledger.leaf(0),
            rotations=join_leaves(ledger.rotations()),
            task=ledger.leaf(tally.index),
            task_index=tally.index,
            inclusion=b"".join(tree.inclusion_proof(tally.index)),
            checkpoint=ledger.checkpoint,
            seen_size=seen_size,
            consistency=b"".join(
                tree.consistency_proof(seen_size) if seen_size <= tree.size else []
            ),
            asked=pack_bits(tally.asked(voter)),
            seconds=max(1.0, self._until[voter] - self._clock()),
            bundle=self._bundle,
            nonce=urandom(32),
        )

    def _send(self, batch: list[tuple[bytes, int, VoteRequest]]) -> None:
        messages = []
        for _, node_id, request in batch:
            content = RecordDict({RECORD: ConfigRecord(request.record())})
            content[SAMPLES] = self._samples[SAMPLES]
            messages.append(Message(content, node_id, MessageType.TRAIN, ttl=request.seconds + 5))
        for (voter, _, request), message_id in zip(
            batch, self._collector.send(messages), strict=True
        ):
            self._attempts[voter] = self._attempts.get(voter, 0) + 1
            if message_id:
                self._asked[message_id] = _Asked(voter, request.nonce, self._ledger.replay.size)
                self._say("asked", voter)

    # -- what came back -------------------------------------------------------------------

    def _answer(self, asked: _Asked, message: Message) -> None:
        """Take a ballot or a decline; anything else is refused."""
        record = message.content.get(RECORD)
        fields = dict(record) if isinstance(record, ConfigRecord) else {}
        try:
            if set(fields) == {"ballot"}:
                self._submit(asked, BallotReply.read(fields).ballot)
                return
            self._declined(asked, Declined.read(fields))
        except (FormatError, SignatureError) as error:
            self._refuse(asked.voter, Refusal.ANSWER, str(error), _bytes_of(message))

    def _submit(self, asked: _Asked, ballot: bytes) -> None:
        late = self.closed or asked.voter in self._tally.absent
        try:
            self._ledger.submit(ballot, voter=asked.voter)
        except BallotError as error:
            if self._ledger.accuse(ballot, voter=asked.voter):
                self._say("evidence", asked.voter, "signed two different ballots")
                return
            self._refuse(asked.voter, Refusal(error.reason), str(error), ballot)
            return
        self._directory.saw(asked.voter, asked.sent_size, stored=[self._tally.task_id])
        self._say("late" if late else "ballot", asked.voter)

    def _declined(self, asked: _Asked, reply: Declined) -> None:
        reply.check(
            asked.voter,
            ledger_id=self._ledger.replay.ledger_id,
            task_id=self._tally.task_id,
            nonce=asked.nonce,
        )
        self._directory.saw(asked.voter, asked.sent_size)
        self._absent(asked.voter, AbsenceReason(reply.reason), reply.text)

    def _failed(self, voter: bytes, why: str) -> None:
        """An error reply is nobody's word: ask again, and settle when asking is used up."""
        _LOG.warning("%s answered with an error: %s", self._name(voter), why)
        self._directory.drop(voter)
        if self._exhausted(voter):
            self._absent(voter, AbsenceReason.ERROR, why)

    def _refuse(self, voter: bytes, reason: Refusal, why: str, content: bytes) -> None:
        """Record a refusal; the voter is asked again until its deadline."""
        self._directory.drop(voter)
        if not self.closed and self._tally.refusals[voter] < MAX_REFUSALS:
            self._ledger.refuse(voter, reason, content=content)
        self._say("refused", voter, f"{reason.name.lower()}: {why}")

    def _absent(self, voter: bytes, reason: AbsenceReason, why: str) -> None:
        if self.closed or self._tally.is_settled(voter):
            return
        self._ledger.absent(voter, reason)
        self._say("absent", voter, f"{reason.name.lower()}: {why}" if why else reason.name.lower())

    def _expire(self) -> None:
        """Settle voters whose deadline has passed; a ballot that still comes is late."""
        now = self._clock()
        for voter in self._tally.outstanding():
            if now >= self._until[voter]:
                self._absent(voter, AbsenceReason.DEADLINE, "")
                if self.closed:
                    self._say("closed", detail=self._tally.closed.reason.name.lower())  # type: ignore[union-attr]
                    return

    # -- telling --------------------------------------------------------------------------

    def _name(self, voter: bytes) -> str:
        members = self._ledger.replay.roster.members  # also who was revoked while the task is open
        return next(member.name for member in members if member.key == voter)

    def _say(self, what: str, voter: bytes = b"", detail: str = "") -> None:
        tally = self._tally
        event = Event(
            what=what,
            task=self._ledger.replay.number,
            node=self._name(voter) if voter else "",
            detail=told(detail),
            ballots=tally.counted,
            decided=int(tally.decided.sum()),
            samples=tally.task.n,
            voters=len(tally.ranks),
            ledger_seconds=self._ledger.seconds,
        )
        _LOG.info("%s", event)
        self._on_event(event)


def _bytes_of(message: Message) -> bytes:
    """Bytes that stand for a reply that is none of ours: the largest blob in it, or its text."""
    blobs = [
        value
        for record in message.content.values()
        if isinstance(record, ConfigRecord)
        for value in record.values()
        if isinstance(value, bytes)
    ]
    if blobs:
        return max(blobs, key=len)
    return repr(sorted(message.content)).encode()
