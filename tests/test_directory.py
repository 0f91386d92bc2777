"""Who is let in: a key of one's own, proven anew, by whoever may enrol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message
from ledgers import ADMIN, SERVER, voter, without
from populations import key_of, truthful

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.entries import Enrolment
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger
from rtc_flower.roster import Roster
from rtc_flower.simulator import InMemoryGrid, SimulatedClock, SimulatedNode, population
from rtc_flower.strategies.directory import Directory
from rtc_flower.wire import RECORD


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create(tmp_path / "ledger.db", SERVER) as opened:
        yield opened


def node(**faults: object) -> SimulatedNode:
    """A node whose faults are in its hello, too."""
    return replace(truthful(), when=lambda message: True, **faults)  # type: ignore[arg-type]


def greet(
    ledger: Ledger, nodes: list[SimulatedNode], state_dir: Path, *, seconds: float = 300.0
) -> Directory:
    """Greet all nodes until nothing more comes."""
    clock = SimulatedClock()
    placed = population(nodes, state_dir)
    with (
        InMemoryGrid(placed, workers=1, clock=clock) as grid,
        clock.collector(grid) as collector,
    ):
        directory = Directory(grid, collector, ledger, clock=clock)
        while clock.now < seconds:
            directory.refresh()
            reply = collector.reply(1.0)
            if reply is not None:
                assert directory.take(reply)
            clock.sleep(0.1)
    return directory


def changed(field: str, value: object) -> SimulatedNode:
    def tamper(reply: Message) -> Message:
        reply.content.config_records[RECORD][field] = value  # type: ignore[assignment]
        return reply

    return node(tamper=tamper)


def names(directory: Directory) -> set[str]:
    return {found.name for found in directory.online().values()}


def test_nodes_are_known_by_their_keys_and_enrolled_in_one_entry(
    ledger: Ledger, tmp_path: Path
) -> None:
    directory = greet(ledger, [node() for _ in range(3)], tmp_path, seconds=20)
    keys = {SigningKey.load(path).public for path in tmp_path.rglob("node.key")}
    assert set(directory.online()) == keys
    assert ledger.replay.size == 1
    directory.enrol()
    directory.enrol()
    assert ledger.replay.size == 2
    assert {member.key for member in ledger.replay.roster.members} == keys


def test_a_hello_that_does_not_prove_its_key_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    stranger = SigningKey.generate().public
    small_order = bytes([1]) + bytes(31)  # the identity: one signature verifies every message
    nodes = [
        node(),
        changed("key", stranger),
        changed("key", small_order),
        changed("key", bytes(31)),
        changed("signature", bytes(64)),
        changed("name", 7),
        node(rubbish="empty"),
        node(rubbish="bytes"),
    ]
    directory = greet(ledger, nodes, tmp_path, seconds=20)
    assert names(directory) == {"node-0"}
    assert len(directory.refused) == 7
    directory.enrol()
    assert len(ledger.replay.roster.members) == 1


def test_a_node_that_fails_its_hello_is_greeted_three_times(ledger: Ledger, tmp_path: Path) -> None:
    asked: list[int] = []

    def count(message: Message) -> bool:
        asked.append(message.metadata.dst_node_id)
        return True

    directory = greet(ledger, [replace(node(crash_after=0), when=count)], tmp_path, seconds=60)
    assert len(asked) == 3
    assert (directory.nodes, directory.refused) == ({}, {})
    recovered = greet(
        ledger,
        [replace(node(), crash_after=0, when=lambda m: len(asked) < 0)],
        tmp_path,
        seconds=20,
    )
    assert names(recovered) == {"node-0"}


def test_a_silent_node_holds_up_nobody(ledger: Ledger, tmp_path: Path) -> None:
    directory = greet(ledger, [node(silent=True), node()], tmp_path, seconds=20)
    assert names(directory) == {"node-1"}


def test_names_are_made_to_differ_and_to_print(ledger: Ledger, tmp_path: Path) -> None:
    nodes = [changed("name", name) for name in ("ward", "ward", "a\nb\x00c", "\n", "é" * 60)]
    directory = greet(ledger, nodes, tmp_path, seconds=20)
    assert names(directory) == {"ward", "ward-2", "abc", "node", "é" * 20}
    directory.enrol()
    assert len(ledger.replay.roster.members) == 5


def test_under_roster_enrolment_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "roster.db"
    with Ledger.create(path, SERVER, enrolment=Enrolment.ROSTER, admin_key=ADMIN.public) as ledger:
        directory = greet(ledger, [node()], tmp_path, seconds=20)
        assert directory.online() == {}
        (why,) = directory.refused.values()
        assert "is not enrolled; ask the roster's admin" in why
        assert ledger.replay.size == 1
        key = key_of(tmp_path, 0).public
        roster = Roster().enrol([(key, "a"), (voter(0).public, "b")])
        for successor in (roster, without(roster, key)):
            ledger.apply_roster(successor.sign(ADMIN, ledger_id=ledger.replay.ledger_id))
        (why,) = greet(ledger, [node()], tmp_path, seconds=20).refused.values()
        assert "was revoked; the node needs a new one" in why


def test_a_checkpoint_of_another_ledger_of_this_server_refuses_one_node_and_stops_nobody(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A ledger that continues a lost one is signed by the same key."""
    old = Checkpoint(bytes(32), 9, bytes(32)).sign(SERVER)
    directory = greet(ledger, [changed("checkpoint", old), node()], tmp_path, seconds=20)
    assert len(directory.online()) == 1
    (why,) = directory.refused.values()
    assert why == "expected the checkpoint that it holds of this ledger, got another's"
