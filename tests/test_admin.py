"""Keys over time: every change is a log position, and takes effect with the next task."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from ledgers import ADMIN, SERVER, cast, make_ballot, post, query, voter
from populations import key_of, killed, run, task, truthful

from rtc_flower.admin import (
    RosterRequest,
    SignedRoster,
    apply_roster,
    change_roster,
    changed,
    load_key,
    make_key,
    open_state,
    rotate_server_key,
)
from rtc_flower.entries import Enrolment
from rtc_flower.errors import (
    FormatError,
    KeyFormatError,
    LedgerError,
    LedgerFormatError,
    ReplayError,
    SignatureError,
    TaskError,
    UnsupportedError,
)
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger
from rtc_flower.roster import MemberState, Roster
from rtc_flower.state import open_ledger
from rtc_flower.strategies.proof_of_prediction import ProofOfPrediction
from rtc_flower.verify import verify


def states(roster: Roster) -> list[tuple[str, bytes, bool]]:
    return [(m.name, m.key, m.state is MemberState.ACTIVE) for m in roster.members]


# -- key files -------------------------------------------------------------------------------


def test_key_files_are_for_their_owner_and_never_overwritten(tmp_path: Path) -> None:
    key = make_key(tmp_path / "admin.key")
    assert (tmp_path / "admin.key").stat().st_mode & 0o777 == 0o600
    assert load_key(tmp_path / "admin.key").public == key.public
    with pytest.raises(KeyFormatError, match="exists already"):
        make_key(tmp_path / "admin.key")
    for mode in (0o640, 0o604, 0o660):
        (tmp_path / "admin.key").chmod(mode)
        with pytest.raises(KeyFormatError, match="expected mode 0600"):
            load_key(tmp_path / "admin.key")
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(KeyFormatError, match=why):  # and not: run chmod 600 on the folder
            load_key(path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(KeyFormatError, match="cannot be written"):
        make_key(tmp_path / "file" / "key")


# -- the server's key ------------------------------------------------------------------------


def test_a_rotated_server_key_signs_and_the_old_one_is_gone(tmp_path: Path) -> None:
    with open_ledger(tmp_path) as ledger:
        old, before = ledger.key.public, ledger.checkpoint
    new = rotate_server_key(tmp_path)
    assert load_key(tmp_path / "server.key").public == new.public != old
    assert (tmp_path / "server.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "server.key.new").exists()
    with open_state(tmp_path) as ledger:
        assert ledger.replay.server_key == new.public
        ledger.enrol([(voter(0).public, "a")])
    assert verify(tmp_path / "ledger.db", held=before).exit_code == 0


class _DiedError(Exception):
    pass


@pytest.mark.parametrize("after", ["key file", "log entry"])
def test_a_crash_in_a_rotation_leaves_a_key_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    open_ledger(tmp_path).close()

    def die(*_: object) -> None:
        raise _DiedError

    with monkeypatch.context() as patch:
        if after == "key file":
            patch.setattr(Ledger, "rotate_key", die)
        else:
            patch.setattr("rtc_flower.admin.adopt", die)
        with pytest.raises(_DiedError):
            rotate_server_key(tmp_path)
    waiting = load_key(tmp_path / "server.key.new").public
    with ProofOfPrediction([], tmp_path)._open() as ledger:
        named = ledger.replay.server_key
    assert load_key(tmp_path / "server.key").public == named
    assert (named == waiting) == (after == "log entry")
    assert (tmp_path / "server.key.new").exists() == (after == "key file")
    again = rotate_server_key(tmp_path).public
    assert (again == waiting) == (after == "key file")
    assert verify(tmp_path / "ledger.db").exit_code == 0


def test_a_waiting_key_opens_no_ledger_that_does_not_name_it(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    make_key(tmp_path / "server.key.new")
    os.replace(tmp_path / "server.key", tmp_path / "lost")
    make_key(tmp_path / "server.key")
    with pytest.raises(LedgerError, match="expected the server key that this ledger names"):
        open_ledger(tmp_path)
    assert (tmp_path / "server.key.new").exists()


def test_a_ledger_without_its_key_is_refused_and_no_other_key_is_made(tmp_path: Path) -> None:
    open_ledger(tmp_path).close()
    (tmp_path / "server.key").unlink()
    for opened in (open_ledger, open_state, lambda path: ProofOfPrediction([], path)._open()):
        with pytest.raises(LedgerError, match="expected the server's key, found none"):
            opened(tmp_path)
    assert not (tmp_path / "server.key").exists()
    make_key(tmp_path / "server.key.new")  # of no use either
    with pytest.raises(LedgerError, match="expected the server's key, found none"):
        open_ledger(tmp_path)
    assert not (tmp_path / "server.key").exists()


def test_a_key_that_an_interrupted_rotation_left_opens_without_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(tmp_path).close()
    with monkeypatch.context() as patch:
        patch.setattr("rtc_flower.admin.adopt", lambda _: None)
        named = rotate_server_key(tmp_path).public
    (tmp_path / "server.key").unlink()
    open_state(tmp_path).close()
    assert load_key(tmp_path / "server.key").public == named


def test_nothing_is_made_where_no_server_is(tmp_path: Path) -> None:
    with pytest.raises(LedgerFormatError, match="expected a server's state"):
        rotate_server_key(tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- the roster, open enrolment --------------------------------------------------------------


def test_a_rotated_node_keeps_its_name_and_its_old_key_is_revoked(ledger: Ledger) -> None:
    before = ledger.replay.roster
    roster = change_roster(ledger, rotate=[("node 1", voter(7).public)])
    assert roster.version == before.version + 1
    assert states(roster) == [
        ("node 0", voter(0).public, True),
        ("node 1", voter(1).public, False),
        ("node 2", voter(2).public, True),
        ("node 1", voter(7).public, True),
    ]
    assert verify(ledger.path).exit_code == 0


def test_n9_a_change_takes_effect_with_the_next_task(ledger: Ledger) -> None:
    post(ledger, 3)
    change_roster(ledger, revoke=["node 1"], enrol=[("node 9", voter(9).public)])
    payload = make_ballot(ledger.replay, voter(1), (0, 1, 2)).encode()
    ledger.submit(payload, voter=voter(1).public)  # the open task counts it
    cast(ledger, voter(0), (0, 1, 2))
    assert ledger.tally.closed is not None
    assert query(ledger.path, "SELECT count(*) FROM counted") == [(2,)]
    with pytest.raises(TaskError, match="enrolled and active"):
        post(ledger, 3)
    assert verify(ledger.path).exit_code == 0


def test_names_that_are_not_active_or_stand_twice_are_refused(ledger: Ledger) -> None:
    roster = ledger.replay.roster
    revoked = changed(roster, revoke=["node 1"])
    for names in (["nobody"], ["node 0", "node 0"]):
        with pytest.raises(FormatError, match="active members"):
            changed(roster, revoke=names)
    with pytest.raises(FormatError):
        changed(revoked, revoke=["node 1"])  # revoked is final
    with pytest.raises(FormatError):
        changed(roster, revoke=["node 0"], rotate=[("node 0", voter(8).public)])
    with pytest.raises(FormatError, match="somebody"):
        changed(roster)
    with pytest.raises(FormatError, match="every key once"):
        changed(roster, rotate=[("node 0", voter(1).public)])
    for change in ("enrol", "rotate"):
        for key in (bytes(32), voter(8).public[1:], b""):
            with pytest.raises(KeyFormatError, match=r"^node 0: expected an Ed25519"):
                changed(roster, **{change: [("node 0", key)]})  # type: ignore[arg-type]


def test_a_revoked_node_is_refused_and_a_rotated_one_votes(tmp_path: Path) -> None:
    nodes = [truthful() for _ in range(3)]
    run([task(6)], nodes, tmp_path)
    lost = key_of(tmp_path, 2)
    with open_state(tmp_path) as ledger:
        change_roster(ledger, revoke=["node-2"])
    result = run([task(6, first=10)], nodes, tmp_path, seed=1, min_nodes=2, wait_seconds=5.0)
    assert ["was revoked" in why for why in result.refused_nodes.values()] == [True]
    assert set(result.tasks[0].ballots) == {"node-0", "node-1"}

    # The node loses its state, makes a key, and its operator enrols that under a new name.
    key_file = tmp_path / "nodes" / "2" / "node.key"
    key_file.unlink()
    fresh = make_key(key_file)
    assert fresh.public != lost.public
    with open_state(tmp_path) as ledger:
        change_roster(ledger, enrol=[("node-2", fresh.public)])
    result = run([task(6, first=20)], nodes, tmp_path, seed=2, rule="all")
    assert set(result.tasks[0].ballots) == {"node-0", "node-1", "node-2"}


def test_n9_a_node_revoked_during_a_task_votes_on_it_and_on_no_other(tmp_path: Path) -> None:
    """The restarted server refused it at the door, waited for it, and called it absent."""
    nodes, pool = [truthful() for _ in range(3)], [task(6), task(6, first=10)]
    killed(pool, nodes, tmp_path, after="posted", rule="all")
    with open_state(tmp_path) as ledger:
        change_roster(ledger, revoke=["node-2"])
    options = {"rule": "all", "min_nodes": 2, "wait_seconds": 60.0, "audit": "full"}
    result = run(pool, nodes, tmp_path, **options)
    first, second = result.tasks
    assert (set(first.ballots), first.absent) == ({"node-0", "node-1", "node-2"}, {})
    assert first.cosigned == (3, 3)
    assert set(second.ballots) == {"node-0", "node-1"}
    assert ["was revoked" in why for why in result.refused_nodes.values()] == [True]


def test_n9_a_node_that_changes_its_key_during_a_task_is_absent_under_the_old_one(
    tmp_path: Path,
) -> None:
    """The restarted server ended in a KeyError behind the entry that says so."""
    nodes, pool = [truthful() for _ in range(3)], [task(6), task(6, first=10)]
    killed(pool, nodes, tmp_path, after="posted", rule="all")
    key_file = tmp_path / "nodes" / "2" / "node.key"
    key_file.unlink()
    with open_state(tmp_path) as ledger:
        change_roster(ledger, rotate=[("node-2", make_key(key_file).public)])
    options = {"rule": "all", "wait_seconds": 60.0, "deadline": 5.0}
    first, second = run(pool, nodes, tmp_path, **options).tasks
    assert (set(first.ballots), first.absent) == ({"node-0", "node-1"}, {"node-2": "deadline"})
    assert set(second.ballots) == {"node-0", "node-1", "node-2"}


# -- the roster, signed elsewhere ------------------------------------------------------------


@pytest.fixture
def governed(tmp_path: Path) -> Path:
    """The state of a server whose roster the admin signs."""
    SERVER.save(tmp_path / "server.key")
    Ledger.create(
        tmp_path / "ledger.db", SERVER, enrolment=Enrolment.ROSTER, admin_key=ADMIN.public
    ).close()
    return tmp_path


def carried(state: Path) -> RosterRequest:
    """The request as it arrives on the admin's machine."""
    return RosterRequest.from_json(RosterRequest.of(state / "ledger.db").to_json())


def applied(state: Path, signed: SignedRoster) -> None:
    with open_state(state) as ledger:
        apply_roster(ledger, SignedRoster.from_json(signed.to_json()))


def test_a_roster_is_signed_where_no_ledger_is(governed: Path) -> None:
    applied(governed, carried(governed).sign(ADMIN, enrol=[("a", voter(0).public)]))
    signed = carried(governed).sign(
        ADMIN, rotate=[("a", voter(1).public)], enrol=[("b", voter(2).public)]
    )
    applied(governed, signed)
    with open_state(governed) as ledger:
        assert states(ledger.replay.roster) == [
            ("a", voter(0).public, False),
            ("a", voter(1).public, True),
            ("b", voter(2).public, True),
        ]
        with pytest.raises(LedgerError, match="only the admin key"):
            change_roster(ledger, revoke=["a"])
    assert verify(governed / "ledger.db").exit_code == 0


def test_n8_no_roster_but_the_admins_is_taken(governed: Path) -> None:
    request = carried(governed)
    signed = request.sign(ADMIN, enrol=[("a", voter(0).public)])
    size = len(query(governed / "ledger.db", "SELECT idx FROM entry"))
    by_server = replace(signed, roster=signed.roster.sign(SERVER, ledger_id=signed.ledger_id))
    with pytest.raises(SignatureError):
        applied(governed, by_server)
    with pytest.raises(FormatError, match="expected a roster for ledger"):
        applied(governed, replace(signed, ledger_id=bytes(32)))
    with pytest.raises(SignatureError):
        applied(governed, replace(signed, roster=signed.roster.sign(ADMIN, ledger_id=bytes(32))))
    assert len(query(governed / "ledger.db", "SELECT idx FROM entry")) == size
    applied(governed, signed)
    with pytest.raises(ReplayError, match="expected roster version 2, got 1"):
        applied(governed, signed)  # a version rolled back


def test_the_admin_signs_nothing_that_a_server_slipped_in(governed: Path) -> None:
    applied(governed, carried(governed).sign(ADMIN, enrol=[("a", voter(0).public)]))
    request = carried(governed)
    forged = request.read_roster().enrol([(voter(9).public, "sybil")])
    genesis_id = request.sign(ADMIN, revoke=["a"]).ledger_id
    slipped = replace(request, roster=forged.sign(SERVER, ledger_id=genesis_id).encode())
    with pytest.raises(SignatureError, match="V6: the roster in the request: expected"):
        slipped.sign(ADMIN, enrol=[("b", voter(1).public)])
    with pytest.raises(KeyFormatError, match="expected the admin key"):
        request.sign(SigningKey(b"\x09" * 32), revoke=["a"])


def test_open_enrolment_needs_no_request(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="enrolment is open"):
        RosterRequest.of(ledger.path)


def test_bad_files_are_named(governed: Path) -> None:
    request = carried(governed)
    signed = request.sign(ADMIN, enrol=[("a", voter(0).public)])
    for made in (request, signed):
        text = made.to_json()
        for broken in ("", "{}", text[:-9], text + "x", text.replace('": "', '": "x')):
            with pytest.raises(FormatError):
                type(made).from_json(broken)
        with pytest.raises(UnsupportedError):
            type(made).from_json(text.replace(' 1"', ' 2"', 1))
    payload = signed.roster.encode().hex()
    for other in (payload[:-2], payload + "00", "", "00"):
        with pytest.raises(FormatError):
            SignedRoster.from_json(signed.to_json().replace(payload, other))
    with pytest.raises(FormatError):
        replace(request, roster=b"\x00").sign(ADMIN, revoke=["a"])
    with pytest.raises(FormatError):
        replace(request, genesis=request.genesis[:-1]).sign(ADMIN, revoke=["a"])
