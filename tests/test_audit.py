"""The audit round between a strategy and its nodes, in memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message, MessageType
from ledgers import log_of, query
from populations import key_of, run, task, truthful

from rtc_flower.admin import change_roster, make_key, open_state, rotate_server_key
from rtc_flower.errors import LedgerError, QuorumError
from rtc_flower.reading import list_tasks
from rtc_flower.receipts import KeptReceipt
from rtc_flower.simulator import SimulatedNode, silent
from rtc_flower.strategies.proof_of_prediction import VoteResult
from rtc_flower.wire import RECORD, AuditRequest, SentReceipt, split_leaves


def audited(
    state: Path, nodes: Sequence[SimulatedNode], *, seed: int = 0, **options: object
) -> VoteResult:
    return run([task(6, first=10 * seed)], nodes, state, seed=seed, rule="all", **options)


def kept(state: Path, node: int, pattern: str) -> list[Path]:
    return sorted((state / "nodes" / str(node)).rglob(pattern))


def verdicts(result: VoteResult) -> dict[str, tuple[str, bool]]:
    return {a.node: (a.verdict, a.cosigned) for a in result.tasks[-1].audits}


def test_off_light_and_full(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(3)]
    assert verdicts(audited(tmp_path, nodes, audit="off")) == {}
    assert kept(tmp_path, 0, "*.receipt") == []
    light = audited(tmp_path, nodes, seed=1, audit="light")
    assert verdicts(light) == {f"node-{i}": ("ok", False) for i in range(3)}
    assert kept(tmp_path, 0, "replica") == []
    assert len(kept(tmp_path, 0, "*.receipt")) == 2  # the one of the first task was fetched
    full = audited(tmp_path, nodes, seed=2, audit="full")
    assert verdicts(full) == {f"node-{i}": ("ok", True) for i in range(3)}
    log = log_of(tmp_path / "ledger.db")
    for node in range(3):
        assert split_leaves(kept(tmp_path, node, "replica")[0].read_bytes()) == log
        for path in kept(tmp_path, node, "*.receipt"):
            KeptReceipt.from_json(path.read_text()).check_in(tmp_path / "ledger.db")
    assert [(row.cosigned, row.enrolled) for row in list_tasks(tmp_path / "ledger.db")] == [
        (3, 3)
    ] * 3
    assert query(tmp_path / "ledger.db", "SELECT DISTINCT size FROM cosignature") == [(len(log),)]


def test_a_lost_replica_is_sent_again(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(2)]
    audited(tmp_path, nodes, audit="full")
    kept(tmp_path, 0, "replica")[0].unlink()
    torn = kept(tmp_path, 1, "replica")[0]
    torn.write_bytes(torn.read_bytes()[:-5])
    result = audited(tmp_path, nodes, seed=1, audit="full")
    assert verdicts(result) == {"node-0": ("ok", True), "node-1": ("ok", True)}
    for node in range(2):
        (replica,) = kept(tmp_path, node, "replica")
        assert split_leaves(replica.read_bytes()) == log_of(tmp_path / "ledger.db")


def test_a_ballot_under_a_node_s_old_key_is_not_missed(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(2)]
    audited(tmp_path, nodes, audit="full")
    (tmp_path / "nodes" / "1" / "node.key").unlink()
    fresh = make_key(tmp_path / "nodes" / "1" / "node.key").public
    with open_state(tmp_path) as ledger:
        change_roster(ledger, rotate=[("node-1", fresh)])
    result = audited(tmp_path, nodes, seed=1, audit="full")
    assert sorted((a.node, a.verdict, a.detail) for a in result.tasks[0].audits) == [
        ("node-0", "ok", ""),
        ("node-1", "ok", ""),
    ]


def test_a_node_that_owes_a_ballot_is_not_audited(tmp_path: Path) -> None:
    result = audited(tmp_path, [truthful(), truthful(), silent()], audit="full", deadline=5.0)
    assert verdicts(result) == {"node-0": ("ok", True), "node-1": ("ok", True)}
    (row,) = list_tasks(tmp_path / "ledger.db")
    assert (row.cosigned, row.enrolled) == (2, 3)


def test_a_node_that_comes_during_the_last_task_leaves_no_cosignature(tmp_path: Path) -> None:
    """It is not enrolled, so that V12 would refuse what it signed."""
    nodes = [truthful(delay=5.0), truthful(delay=5.0), truthful(joins_after=4)]
    result = audited(tmp_path, nodes, audit="full")  # and the file is verified
    assert verdicts(result) == {"node-0": ("ok", True), "node-1": ("ok", True)}
    again = audited(tmp_path, [*nodes[:2], truthful()], seed=1, audit="full")
    assert verdicts(again) == {f"node-{i}": ("ok", True) for i in range(3)}


@pytest.mark.parametrize("size", [-1, 10**6, 2**63, 2**64 - 1])
@pytest.mark.parametrize("kind", [MessageType.QUERY, MessageType.EVALUATE])
def test_a_node_that_says_it_has_more_than_the_log_holds_up_nobody(
    tmp_path: Path, kind: str, size: int
) -> None:
    """Flower carries 64 bits without a sign, SQLite has one."""

    def tamper(reply: Message) -> Message:
        if reply.metadata.message_type.startswith(kind):
            reply.content.config_records[RECORD]["replica_size"] = size
        return reply

    nodes = [truthful(), truthful(), replace(truthful(), when=lambda _: True, tamper=tamper)]
    least = 2 if kind == MessageType.QUERY else 3
    result = run([task(6), task(5)], nodes, tmp_path, audit="full", min_nodes=least, rule="all")
    for decided in result.tasks:
        found = {a.node: a.verdict for a in decided.audits}
        assert found.pop("node-2", "error") == "error"
        assert found == {"node-0": "ok", "node-1": "ok"}


def test_who_is_audited_and_who_does_not_answer_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def audit(message: Message) -> bool:
        return message.metadata.message_type == MessageType.EVALUATE

    nodes = [
        truthful(),
        replace(truthful(), silent=True, when=audit),
        replace(truthful(), crash_after=0, when=audit),
    ]
    with caplog.at_level("INFO", logger="flwr.rtc_flower"):
        result = audited(tmp_path, nodes, audit="full", audit_seconds=30.0)
    assert {name: verdict for name, (verdict, _) in verdicts(result).items()} == {
        "node-0": "ok", "node-1": "deadline", "node-2": "error",
    }  # fmt: skip
    said = [record.message for record in caplog.records if record.message.startswith("audit")]
    assert said == [
        "audit (full): 3 nodes asked, up to 30 s",
        "audit: no verdict from node-1 (deadline), node-2 (error)",
    ]


def test_s6_an_old_file_without_its_head_stops_at_the_first_hello(tmp_path: Path) -> None:
    nodes = [truthful(), truthful()]
    audited(tmp_path, nodes)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    audited(tmp_path, nodes, seed=1)
    shutil.copy(tmp_path / "old.db", tmp_path / "ledger.db")
    (tmp_path / "HEAD").unlink()
    before = log_of(tmp_path / "ledger.db")
    with pytest.raises(LedgerError, match=r"it is an old copy, \d+ entries behind"):
        audited(tmp_path, nodes, seed=2)
    assert log_of(tmp_path / "ledger.db") == before


def test_s6_of_an_old_file_from_before_a_rotation_the_node_that_knows_is_refused(
    tmp_path: Path,
) -> None:
    """Its newer checkpoint has a key that the old ledger cannot know: no proof, but a warning."""
    nodes = [truthful(), truthful()]
    audited(tmp_path, nodes)
    for name in ("ledger.db", "server.key"):
        shutil.copy(tmp_path / name, tmp_path / f"old {name}")
    rotate_server_key(tmp_path)
    audited(tmp_path, nodes, seed=1)
    for name in ("ledger.db", "server.key"):
        shutil.copy(tmp_path / f"old {name}", tmp_path / name)
    (tmp_path / "HEAD").unlink()
    before = log_of(tmp_path / "ledger.db")
    with pytest.raises(QuorumError, match="this may be an old copy"):
        audited(tmp_path, nodes, seed=2, wait_seconds=5.0)
    assert log_of(tmp_path / "ledger.db") == before


def test_a_rotated_server_key_is_followed_by_nodes_that_know_the_old_one(tmp_path: Path) -> None:
    nodes = [truthful(), truthful()]
    audited(tmp_path, nodes, audit="full")
    rotate_server_key(tmp_path)
    result = audited(tmp_path, nodes, seed=1, audit="full")
    assert verdicts(result) == {"node-0": ("ok", True), "node-1": ("ok", True)}
    with open_state(tmp_path) as ledger:
        assert key_of(tmp_path, 0).public in ledger.replay.roster.active()
        assert len(ledger.rotations()) == 1


def test_a_full_audit_of_ballots_that_agree_costs_a_fraction_of_the_log(tmp_path: Path) -> None:
    sent: list[int] = []
    voter = truthful()

    def spy(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MessageType.EVALUATE:
            sent.append(len(AuditRequest.read(dict(message.content[RECORD])).entries))
        return voter.app(message, context)

    nodes = [SimulatedNode(spy), *(truthful() for _ in range(5))]
    result = run([task(2_000)], nodes, tmp_path, rule="all", audit="full")
    assert verdicts(result) == {f"node-{i}": ("ok", True) for i in range(6)}
    assert 0 < sent[0] < sum(map(len, log_of(tmp_path / "ledger.db"))) / 3


def counting_receipts(sent: list[int], *, deaf: Sequence[int] = ()) -> SimulatedNode:
    """A node that notes how many receipts come, and does not answer some audits."""
    voter = truthful()

    def spy(message: Message, context: Context) -> Message:
        if message.metadata.message_type == MessageType.EVALUATE:
            request = AuditRequest.read(dict(message.content[RECORD]))
            sent.append(len(SentReceipt.read_all(request.receipts)))
            if len(sent) - 1 in deaf:
                raise OSError("cut off")
        return voter.app(message, context)

    return replace(voter, app=spy)


def test_a_receipt_is_sent_until_the_node_has_it_and_not_again(tmp_path: Path) -> None:
    """What an audit costs does not grow with the tasks before it."""
    sent: list[int] = []
    nodes = [counting_receipts(sent, deaf=(1, 2)), truthful()]
    run([task(6, first=10 * i) for i in range(5)], nodes, tmp_path, audit="light")
    assert sent == [1, 1, 2, 3, 1]
    assert len(kept(tmp_path, 0, "*.receipt")) == 5
    run([task(6, first=60)], nodes, tmp_path, seed=1, audit="off")
    kept(tmp_path, 0, "*.receipt")[0].unlink()
    run([task(6, first=70)], nodes, tmp_path, seed=2, audit="light")  # the hello tells
    assert sent[5:] == [3]
    assert len(kept(tmp_path, 0, "*.receipt")) == 7


def test_a_node_that_was_late_in_one_audit_accuses_nobody_in_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has seen more than it told; it may not be invited in between, so that nobody asks it."""
    slow: list[Message] = []

    def first_audit(message: Message) -> bool:
        if message.metadata.message_type == MessageType.EVALUATE and not slow:
            slow.append(message)
            return True
        return False

    nodes = [truthful(delay=3.0) for _ in range(4)]
    nodes.append(replace(truthful(), delay=12.0, when=first_audit))
    with caplog.at_level("WARNING", logger="flwr.rtc_flower"):
        result = run(
            [task(6), task(5)], nodes, tmp_path, order="invitation", wave_size=1, invite_ahead=0,
            audit_seconds=8.0, min_nodes=5,
        )  # fmt: skip
    first, second = ({a.node: a.verdict for a in decided.audits} for decided in result.tasks)
    assert first["node-4"] == "deadline"
    assert set(second.values()) == {"ok"}
    assert "answered with an error" not in caplog.text


def test_a_late_ballot_gets_its_receipt_while_the_others_are_audited(tmp_path: Path) -> None:
    def voting(message: Message) -> bool:
        return message.metadata.message_type == MessageType.TRAIN

    def auditing(message: Message) -> bool:
        return message.metadata.message_type == MessageType.EVALUATE

    nodes = [truthful(), replace(truthful(), delay=15.0, when=auditing), truthful()]
    late = [*nodes, replace(truthful(), delay=10.0, when=voting)]
    said: list[str] = []
    first = run(
        [task(6)], late, tmp_path, deadline=8.0, rule="all", audit="light", audit_seconds=60.0,
        on_event=lambda event: said.append(event.what),
    )  # fmt: skip
    assert first.tasks[0].absent == {"node-3": "deadline"}
    assert said[-3:] == ["absent", "closed", "late"]
    assert query(tmp_path / "ledger.db", "SELECT count(*) FROM ballot") == [(4,)]
    assert len(kept(tmp_path, 3, "*.receipt")) == 1
    assert verdicts(first) == {f"node-{i}": ("ok", False) for i in range(4)}
    assert first.tasks[0].cosigned == (0, 4)


def test_a_damaged_replica_is_sent_again_in_the_same_audit(tmp_path: Path) -> None:
    """The node has followed nothing before it asks: else the answer looks like another history."""
    nodes = [truthful() for _ in range(2)]
    audited(tmp_path, nodes, audit="full")
    (replica,) = kept(tmp_path, 0, "replica")
    data = bytearray(replica.read_bytes())
    data[len(data) // 2] ^= 1
    replica.write_bytes(data)
    for seed in (1, 2):
        result = audited(tmp_path, nodes, seed=seed, audit="full")
        assert verdicts(result) == {"node-0": ("ok", True), "node-1": ("ok", True)}
    assert split_leaves(replica.read_bytes()) == log_of(tmp_path / "ledger.db")


@pytest.mark.parametrize("audit", ["light", "full"])
def test_n9_a_ballot_that_a_thief_cast_is_shown_to_the_owner(tmp_path: Path, audit: str) -> None:
    nodes = [truthful() for _ in range(2)]
    audited(tmp_path, nodes, audit=audit)
    mine, away = tmp_path / "nodes" / "0", tmp_path / "away"
    shutil.copytree(mine, away)
    audited(tmp_path, nodes, seed=1, audit=audit)  # by a copy of the node's folder
    shutil.rmtree(mine)
    shutil.copytree(away, mine)
    for seed in (2, 3):
        result = audited(tmp_path, nodes, seed=seed, audit=audit)
        (found,) = (found for found in result.tasks[0].audits if found.node == "node-0")
        if seed == 2 or audit == "full":
            assert (found.verdict, found.cosigned) == ("receipt", False)
            assert "somebody else has the key" in found.detail
        assert ("node-1", "ok") in [(a.node, a.verdict) for a in result.tasks[0].audits]
