import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import (
    ADMIN,
    NEXT,
    SERVER,
    cast,
    forge,
    lengths,
    log_of,
    make_ballot,
    names,
    open_ledger,
    post,
    query,
    sample_set,
    tamper,
    voter,
)

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.entries import AbsenceReason, CloseReason, Enrolment, Refusal, Task, decode_leaf
from rtc_flower.errors import (
    BallotError,
    LedgerError,
    LedgerFormatError,
    LedgerFullError,
    LedgerLockedError,
    ReplayError,
    RtcFlowerError,
    TaskError,
    UnsupportedError,
)
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger, Posting
from rtc_flower.maintenance import repair
from rtc_flower.merkle import leaf_hash, verify_inclusion
from rtc_flower.samples import samples_hash
from rtc_flower.stopping import Order, Rule
from rtc_flower.verify import verify

Reopen = Callable[[Ledger], Ledger]


def check_receipt(ledger: Ledger, index: int) -> None:
    state = Checkpoint.verify(ledger.checkpoint, SERVER.public)
    proof, hashed = ledger.replay.tree.inclusion_proof(index), leaf_hash(ledger.leaf(index))
    verify_inclusion(hashed, index, size=state.size, root=state.root, proof=proof)


def assert_sound(ledger: Ledger) -> None:
    """What is in memory, in the file and in HEAD is one state, and it verifies."""
    log = log_of(ledger.path)
    assert ledger.replay.tree.leaves == [leaf_hash(leaf) for leaf in log]
    assert ledger.head_file.read_text() == ledger.checkpoint
    assert Checkpoint.verify(ledger.checkpoint, SERVER.public).size == len(log)
    report = verify(ledger.path, held=ledger.checkpoint)
    assert report.summary == "ok"


# -- a task ------------------------------------------------------------------------------


def test_a_vote_from_genesis_to_close(ledger: Ledger) -> None:
    tally = post(ledger, 3)
    for i in range(3):
        payload = make_ballot(ledger.replay, voter(i), [0, 1, 2]).encode()
        check_receipt(ledger, ledger.submit(payload, voter=voter(i).public))
        assert_sound(ledger)
    assert tally.closed is not None
    assert ledger.replay.number == 1
    assert ledger.samples() == sample_set(3)
    rows = query(ledger.path, "SELECT sample, class_name, support, how FROM outcome")
    assert rows == [(i, f"class {i}", 2, "certain") for i in range(3)]


def test_the_same_ballot_sent_a_hundred_times_is_one_entry(ledger: Ledger, reopen: Reopen) -> None:
    post(ledger, 3)
    payload = cast(ledger, voter(0), [0, 1, 2])
    size = ledger.replay.size
    for _ in range(100):
        assert ledger.submit(payload, voter=voter(0).public) == size - 1
        check_receipt(ledger, size - 1)
    cast(ledger, voter(1), [0, 1, 2])
    assert ledger.tally.closed is not None
    again = reopen(ledger)
    assert again.submit(payload, voter=voter(0).public) == size - 1
    check_receipt(again, size - 1)
    assert_sound(again)


def test_a_second_different_ballot_is_refused_and_the_first_counts(ledger: Ledger) -> None:
    post(ledger, 3)
    cast(ledger, voter(0), [0, 0, 0])
    with pytest.raises(BallotError) as refused:
        cast(ledger, voter(0), [1, 1, 1])
    assert refused.value.reason == Refusal.DUPLICATE
    assert lengths(ledger.tally.forks)[:, 0].tolist() == [1, 1, 1]
    assert_sound(ledger)


def test_a_late_ballot_gets_a_receipt_until_the_next_task(ledger: Ledger) -> None:
    post(ledger, 3, n=1)
    cast(ledger, voter(0), [0])
    cast(ledger, voter(1), [0])
    payload = make_ballot(ledger.replay, voter(2), [1]).encode()
    check_receipt(ledger, ledger.submit(payload, voter=voter(2).public))
    assert query(ledger.path, "SELECT count(*) FROM counted") == [(2,)]
    post(ledger, 3, n=1)
    with pytest.raises(BallotError) as refused:
        ledger.submit(payload, voter=voter(2).public)
    assert refused.value.reason == Refusal.CONTEXT
    assert_sound(ledger)


def test_a_second_different_ballot_becomes_evidence_once(ledger: Ledger) -> None:
    post(ledger, 3, n=1)
    sent = cast(ledger, voter(0), [0])
    assert not ledger.accuse(sent, voter=voter(0).public)
    assert not ledger.accuse(sent[:-1], voter=voter(0).public)
    other = make_ballot(ledger.replay, voter(0), [1]).encode()
    assert not ledger.accuse(other, voter=voter(1).public)
    assert ledger.accuse(other, voter=voter(0).public)
    assert not ledger.accuse(other, voter=voter(0).public)
    rows = query(ledger.path, "SELECT voter FROM evidence")
    assert rows == [(voter(0).public,)]
    cast(ledger, voter(1), [0])
    assert ledger.tally.outcomes().classes.tolist() == [0]
    third = make_ballot(ledger.replay, voter(1), [1]).encode()
    assert ledger.accuse(third, voter=voter(1).public)  # after CLOSE it reopens nothing
    assert ledger.tally.closed is not None
    assert_sound(ledger)


def test_a_rotated_server_key_opens_the_ledger_and_the_old_one_does_not(ledger: Ledger) -> None:
    ledger.rotate_key(NEXT)
    post(ledger, 3)
    cast(ledger, voter(0), [0, 1, 2])
    ledger.close()
    assert verify(ledger.path, held=ledger.checkpoint).summary == "ok"
    with pytest.raises(LedgerError, match="expected the server key"):
        Ledger(ledger.path, SERVER)
    Ledger(ledger.path, NEXT).close()


BAD: dict[str, tuple[Refusal, Callable[[bytes], bytes]]] = {
    "huge": (Refusal.SIZE, lambda raw: raw + bytes(2**20)),
    "empty": (Refusal.FORMAT, lambda raw: b""),
    "cut": (Refusal.FORMAT, lambda raw: raw[:-1]),
    "one more": (Refusal.FORMAT, lambda raw: raw + b"\0"),
    "vote changed": (Refusal.FORMAT, lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
    "tag changed": (Refusal.FORMAT, lambda raw: b"x" + raw[1:]),
    "signature changed": (
        Refusal.SIGNATURE, lambda raw: raw[:220] + bytes([raw[220] ^ 1]) + raw[221:]
    ),
    "ledger changed": (
        Refusal.SIGNATURE, lambda raw: raw[:16] + bytes([raw[16] ^ 1]) + raw[17:]
    ),
    "voter changed": (
        Refusal.CONTEXT, lambda raw: raw[:80] + bytes([raw[80] ^ 1]) + raw[81:]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_ballot_is_refused_and_recorded(ledger: Ledger, name: str) -> None:
    post(ledger, 3)
    reason, change = BAD[name]
    sent = change(make_ballot(ledger.replay, voter(0), [0, 1, 2]).encode())
    before = log_of(ledger.path)
    with pytest.raises(BallotError) as refused:
        ledger.submit(sent, voter=voter(0).public)
    assert refused.value.reason == reason
    assert log_of(ledger.path) == before
    ledger.refuse(voter(0).public, reason, content=sent)
    row = query(ledger.path, "SELECT reason, size FROM refusal")
    assert row == [(reason.name.lower(), len(sent))]
    cast(ledger, voter(0), [0, 1, 2])  # a refusal settles nobody
    assert_sound(ledger)


@pytest.mark.slow
def test_every_bit_of_header_and_signature_flipped_is_refused(ledger: Ledger) -> None:
    post(ledger, 3)
    payload = make_ballot(ledger.replay, voter(0), [0, 1, 2]).encode()
    before = log_of(ledger.path)
    for bit in range(8 * (220 + 64)):
        changed = bytearray(payload)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BallotError):
            ledger.submit(bytes(changed), voter=voter(0).public)
    assert log_of(ledger.path) == before


def test_a_ballot_of_another_node_is_refused(ledger: Ledger) -> None:
    post(ledger, 3)
    payload = make_ballot(ledger.replay, voter(0), [0, 1, 2]).encode()
    with pytest.raises(BallotError, match="expected a ballot of") as refused:
        ledger.submit(payload, voter=voter(1).public)
    assert refused.value.reason == Refusal.CONTEXT


def test_a_fifth_refusal_of_one_voter_is_not_taken(ledger: Ledger) -> None:
    post(ledger, 3)
    for _ in range(4):
        ledger.refuse(voter(0).public, Refusal.FORMAT, content=b"x")
    with pytest.raises(ReplayError, match="R11"):
        ledger.refuse(voter(0).public, Refusal.FORMAT, content=b"x")
    ledger.absent(voter(0).public, AbsenceReason.DEADLINE)
    assert_sound(ledger)


def test_an_aborted_task_has_no_outcomes(ledger: Ledger) -> None:
    post(ledger, 3)
    cast(ledger, voter(0), [0, 1, 2])
    ledger.abort()
    assert ledger.tally.closed is not None
    assert ledger.tally.closed.reason is CloseReason.ABORTED
    for view in ("outcome", "vote", "fork", "best_chain"):
        assert query(ledger.path, f"SELECT count(*) FROM {view}") == [(0,)]
    post(ledger, 3)
    assert_sound(ledger)


def test_times_are_the_clocks_and_no_more(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger.db", SERVER, clock=lambda: 7) as ledger:
        ledger.enrol([(voter(0).public, "a")])
        assert [decode_leaf(leaf)[1] for leaf in log_of(ledger.path)] == [7, 7]


# -- what may not be posted or enrolled --------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"class_names": names(1)}, "classes must be an integer in 2 to 1000, got 1"),
        ({"class_names": names(1001)}, "classes must be an integer in 2 to 1000, got 1001"),
        ({"n": 0}, "close_min must be 1 to 0 samples"),
        ({"class_names": ("a", "a")}, "got 'a' repeated"),
        ({"rule": 9}, "rule must be one of 1 to 4, got 9"),
        ({"rule": Rule.PAPER, "order": Order.ARRIVAL}, "needs counting order invitation"),
        ({"min_ballots": 9}, "min_ballots is 9, the electorate 3"),
        ({"close_min": 4}, "close_min must be 1 to 3"),
    ],
    ids=str,
)
def test_a_task_that_cannot_be_posted(
    ledger: Ledger, fields: dict[str, object], message: str
) -> None:
    data = sample_set(3)
    draft = Task(samples_hash(data), 3, names(2), close_min=3)
    with pytest.raises(TaskError, match=message):
        ledger.post(
            Posting(replace(draft, **fields), data),  # type: ignore[arg-type]
            electorate=[voter(i).public for i in range(3)],
        )
    assert ledger.replay.tally is None
    post(ledger, 3)
    assert_sound(ledger)


def test_only_enrolled_members_are_an_electorate(ledger: Ledger) -> None:
    with pytest.raises(TaskError, match="must be enrolled and active"):
        post(ledger, 4)


def test_two_nodes_with_one_key_or_name_or_a_weak_key(ledger: Ledger) -> None:
    size = ledger.replay.size
    weak = (1).to_bytes(32, "little")
    for key, name in ((voter(0).public, "x"), (voter(9).public, "node 0"), (weak, "w")):
        with pytest.raises(RtcFlowerError):
            ledger.enrol([(key, name)])
    assert ledger.replay.size == size
    assert_sound(ledger)


def test_the_server_enrols_nobody_where_an_admin_does(tmp_path: Path) -> None:
    with Ledger.create(
        tmp_path / "ledger.db", SERVER, enrolment=Enrolment.ROSTER, admin_key=ADMIN.public
    ) as ledger:
        with pytest.raises(LedgerError, match="only the admin key enrols here"):
            ledger.enrol([(voter(0).public, "a")])
        assert ledger.replay.roster.version == 0


def test_calls_without_a_task_are_a_bug(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match="no task was posted"):
        ledger.invite(1)


# -- create, open, restart ---------------------------------------------------------------


def test_create_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    open_ledger(path).close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="never overwritten"):
        Ledger.create(path, SERVER)
    with pytest.raises(LedgerError, match="HEAD exists already"):
        Ledger.create(tmp_path / "other.db", SERVER)
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["HEAD", "ledger.db", "ledger.db.lock"]


def test_a_failed_create_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="R1"):
        Ledger.create(
            tmp_path / "ledger.db", SERVER, enrolment=Enrolment.ROSTER, admin_key=SERVER.public
        )
    assert os.listdir(tmp_path) == []


def test_a_restart_in_the_middle_of_a_task_finishes_it(ledger: Ledger, reopen: Reopen) -> None:
    post(ledger, 3, order=Order.INVITATION, rule=Rule.ALL)
    by_rank = list(ledger.tally.ranks)
    keys = {voter(i).public: voter(i) for i in range(3)}
    cast(ledger, keys[by_rank[2]], [0, 1, 2])
    ledger.refuse(by_rank[0], Refusal.FORMAT, content=b"x")
    again = reopen(ledger)
    assert again.tally.outstanding() == by_rank[:2]
    assert again.tally.refusals[by_rank[0]] == 1
    assert again.samples() == sample_set(3)
    cast(again, keys[by_rank[0]], [0, 1, 1])
    last = reopen(again)
    last.absent(by_rank[1], AbsenceReason.DEADLINE)
    assert last.tally.closed is not None
    assert last.tally.outcomes().classes.tolist() == [0, 1, 1]
    assert_sound(last)


def test_another_key_than_the_servers_is_refused(ledger: Ledger) -> None:
    ledger.close()
    with pytest.raises(LedgerError, match="expected the server key that this ledger names"):
        Ledger(ledger.path, voter(0))
    Ledger(ledger.path, SERVER).close()  # the lock is free again


def test_close_is_idempotent(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()


def test_what_is_no_ledger_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with pytest.raises(LedgerFormatError, match="found none"):
        Ledger(path, SERVER)
    with pytest.raises(LedgerFormatError, match="found none"):
        Ledger(tmp_path / "no" / "folder.db", SERVER)
    assert os.listdir(tmp_path) == []
    for content in (b"", b"x" * 4096):
        path.write_bytes(content)
        with pytest.raises(LedgerFormatError):
            Ledger(path, SERVER)
        assert path.read_bytes() == content


def test_half_a_file_is_not_opened(ledger: Ledger) -> None:
    ledger.close()
    ledger.path.write_bytes(ledger.path.read_bytes()[: -3 * 4096])
    with pytest.raises(LedgerFormatError, match="damaged or foreign"):
        Ledger(ledger.path, SERVER)


def test_a_log_that_the_server_did_not_sign_is_not_gone_on_with(ledger: Ledger) -> None:
    """Else the server would sign a second history and look like a liar: HEAD may be gone, too."""
    post(ledger, 3)
    for number in range(3):
        cast(ledger, voter(number), (0, 1, 2))
    post(ledger, 3)
    size = ledger.replay.size
    ledger.close()
    whole, log = ledger.path.read_bytes(), log_of(ledger.path)
    damage: list[tuple[str, tuple[object, ...]]] = [
        ("UPDATE checkpoint SET note = replace(note, ?, ?) WHERE size = ?", (old, new, size))
        for old, new in ((f"\n{size}\n", f"\n{size - 1}\n"), ("=\n", "\n"), ("rtc", "tcr"))
    ]
    damage.append(("DELETE FROM checkpoint WHERE size = ?", (size,)))
    for index, leaf in enumerate(log):
        # The time, which no rule looks at, the payload, and the type, which may hide a TASK.
        for place, bit in ((20, 1), (len(leaf) - 1, 1), *((16, 1 << b) for b in range(8))):
            changed = bytearray(leaf)
            changed[place] ^= bit
            sql = "UPDATE entry SET leaf = ? WHERE idx = ?"
            damage.append((sql, (bytes(changed), index)))
    for statement in damage:
        ledger.path.write_bytes(whole)
        ledger.head_file.unlink(missing_ok=True)
        tamper(ledger.path, statement)
        said = r"damaged|the server key that this ledger names|Install a newer"
        with pytest.raises(LedgerError, match=said):
            Ledger(ledger.path, SERVER)
    ledger.path.write_bytes(whole)
    Ledger(ledger.path, SERVER).close()


def test_a_newer_entry_is_not_written_over(ledger: Ledger) -> None:
    ledger.close()
    log = log_of(ledger.path)
    newer = log[0][:16] + b"\x0b" + bytes(8)
    path = forge(ledger.path.with_name("newer.db"), [*log, newer])
    with pytest.raises(UnsupportedError, match="unknown type 11"):
        Ledger(path, SERVER, head_file=path.with_name("NEWER"))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write everything, so step down for a while."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_ledger_that_this_user_may_not_write(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.close()
    monkeypatch.chdir(ledger.path.parent)  # the folders above may be closed to nobody
    ledger.path.chmod(0o444)
    ledger.path.parent.chmod(0o555)
    path = Path(ledger.path.name)
    try:
        with as_nobody(), pytest.raises(LedgerError, match="read-only"):
            Ledger(path, SERVER)
    finally:
        ledger.path.parent.chmod(0o755)
    ledger.path.chmod(0o644)
    Ledger(ledger.path, SERVER).close()


# -- HEAD --------------------------------------------------------------------------------


def test_a_head_that_is_behind_is_repaired(ledger: Ledger, reopen: Reopen) -> None:
    old = ledger.checkpoint
    post(ledger, 3)
    ledger.head_file.write_text(old)
    again = reopen(ledger)
    assert again.head_file.read_text() == again.checkpoint != old
    again.head_file.unlink()
    assert_sound(reopen(again))


def test_an_old_copy_of_the_ledger_is_refused(ledger: Ledger) -> None:
    old = ledger.path.read_bytes()
    post(ledger, 3)
    head = ledger.head_file.read_text()
    ledger.close()
    ledger.path.write_bytes(old)
    with pytest.raises(LedgerError, match="it is an old copy, 2 entries behind"):
        Ledger(ledger.path, SERVER)
    assert ledger.head_file.read_text() == head


def test_a_head_of_another_ledger_or_history_or_none(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    replay = ledger.replay
    other = SigningKey(b"\7" * 32)
    heads = {
        "got another's": Checkpoint(bytes(32), 1, replay.roots[1]).sign(SERVER),
        "of this ledger": Checkpoint(bytes(32), 1, replay.roots[1]).sign(other),
        "another history": Checkpoint(replay.ledger_id, 1, bytes(32)).sign(SERVER),
        "found none": Checkpoint(replay.ledger_id, 1, replay.roots[1]).sign(other),
        "expected a checkpoint and signatures": "not a checkpoint",
    }
    for message, head in heads.items():
        ledger.head_file.write_text(head)
        with pytest.raises(LedgerError, match=message):
            Ledger(ledger.path, SERVER)
        assert ledger.head_file.read_text() == head
    ledger.head_file.write_bytes(b"\xff\xfe")
    with pytest.raises(LedgerError, match=r"this ledger|damaged, foreign"):
        Ledger(ledger.path, SERVER)


def test_a_head_that_a_power_cut_left_empty_is_written_again(ledger: Ledger) -> None:
    ledger.close()
    ledger.head_file.write_text("")
    with Ledger(ledger.path, SERVER) as again:
        assert ledger.head_file.read_text() == again.checkpoint


def test_a_head_elsewhere(tmp_path: Path) -> None:
    head = tmp_path / "other disk" / "HEAD"
    head.parent.mkdir()
    with Ledger.create(tmp_path / "ledger.db", SERVER, head_file=head) as ledger:
        ledger.enrol([(voter(0).public, "a")])
        assert_sound(ledger)
    assert not (tmp_path / "HEAD").exists()


def test_a_head_that_cannot_be_written_loses_nothing(tmp_path: Path, reopen: Reopen) -> None:
    folder = tmp_path / "other disk"
    folder.mkdir()
    with Ledger.create(tmp_path / "ledger.db", SERVER, head_file=folder / "HEAD") as ledger:
        (folder / "HEAD").unlink()
        folder.rmdir()
        with pytest.raises(LedgerError, match="HEAD: cannot be written"):
            ledger.enrol([(voter(0).public, "a")])
        folder.mkdir()
        ledger.enrol([(voter(1).public, "b")])
        assert len(ledger.replay.roster.members) == 2
        assert_sound(ledger)


# -- two writers -------------------------------------------------------------------------

WRITER = """
import sys, time
sys.path[:0] = {paths!r}
from pathlib import Path
from ledgers import SERVER
from rtc_flower.errors import LedgerLockedError
from rtc_flower.ledger import Ledger
try:
    ledger = Ledger(Path(sys.argv[1]), SERVER)
except LedgerLockedError as error:
    sys.exit(f"locked: {{error}}")
print("open", flush=True)
sys.stdin.read()
"""


def writer(path: Path) -> subprocess.Popen[str]:
    code = WRITER.format(paths=[str(Path(__file__).parent)])
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def test_a_second_writer_fails_at_once_and_names_the_first(ledger: Ledger) -> None:
    with pytest.raises(LedgerLockedError, match=f"pid {os.getpid()}"):
        Ledger(ledger.path, SERVER)
    with writer(ledger.path) as process:
        _, error = process.communicate()
    assert process.returncode == 1
    assert f"another process (pid {os.getpid()}) is writing this ledger" in error
    before = ledger.replay.size
    post(ledger, 3)
    assert ledger.replay.size == before + 2


def test_a_ledger_under_another_name_has_one_writer_and_one_head(
    ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "link").mkdir()
    link, head = tmp_path / "link" / "other.db", tmp_path / "link" / "HEAD"
    link.symlink_to(ledger.path)
    head.symlink_to(ledger.head_file)
    with pytest.raises(LedgerLockedError, match=f"pid {os.getpid()}"):
        Ledger(link, SERVER)
    ledger.close()
    with Ledger(link, SERVER) as again:
        post(again, 2)
        assert ledger.head_file.read_text() == again.checkpoint
    assert link.is_symlink()
    assert head.is_symlink()
    assert repair(link).exit_code == 0
    assert link.is_symlink()
    with Ledger(ledger.path, SERVER) as last:
        assert last.checkpoint == again.checkpoint


def test_the_lock_of_a_killed_writer_is_free(ledger: Ledger) -> None:
    ledger.close()
    with writer(ledger.path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(LedgerLockedError, match=f"pid {process.pid}"):
            Ledger(ledger.path, SERVER)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with Ledger(ledger.path, SERVER) as again:
        assert_sound(again)


# -- disk full ---------------------------------------------------------------------------


def limit_pages(ledger: Ledger, extra: int) -> None:
    """Let the file grow by ``extra`` pages and no more."""
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count = {pages + extra}")


def test_a_full_disk_is_rolled_back_with_no_receipt_and_goes_on_with_space(
    tmp_path: Path,
) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger:
        post(ledger, 3, n=4000, k=2)
        votes = [0] * 4000
        payload = make_ballot(ledger.replay, voter(0), votes).encode()
        failures = 0
        for extra in range(200):
            before, head = log_of(ledger.path), ledger.checkpoint
            limit_pages(ledger, extra)
            with suppress(LedgerFullError):
                check_receipt(ledger, ledger.submit(payload, voter=voter(0).public))
                break
            failures += 1
            assert log_of(ledger.path) == before
            assert ledger.checkpoint == head == ledger.head_file.read_text()
            assert ledger.tally.ballots == {}
            assert ledger.tally.counted == 0
        assert failures > 10  # it failed early, late and in between
        assert ledger.tally.counted == 1
        ledger._db.execute("PRAGMA max_page_count = 1000000")
        cast(ledger, voter(1), votes)
        assert ledger.tally.closed is not None
        assert_sound(ledger)


@settings(max_examples=40)
@pytest.mark.slow
@given(payload=st.binary(max_size=600), data=st.data())
def test_no_payload_gets_past_with_anything_but_our_error(
    tmp_path_factory: pytest.TempPathFactory, payload: bytes, data: st.DataObject
) -> None:
    with open_ledger(tmp_path_factory.mktemp("fuzz") / "ledger.db") as ledger:
        post(ledger, 3)
        honest = make_ballot(ledger.replay, voter(0), [0, 1, 2]).encode()
        before = log_of(ledger.path)
        for _ in range(10):
            cut = data.draw(st.integers(0, len(honest) - 1))
            for sent in (payload, honest[:cut] + payload, payload + honest[cut:]):
                if sent != honest:
                    with pytest.raises(BallotError):
                        ledger.submit(sent, voter=voter(0).public)
        assert log_of(ledger.path) == before
