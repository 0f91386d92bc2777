import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ledgers import (
    ADMIN,
    COLUMNS,
    NEXT,
    NOW,
    SERVER,
    VIEWS,
    World,
    forge,
    make_ballot,
    make_task,
    newer_genesis,
    query,
    sample_set,
    tamper,
    voter,
)

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.encoding import TAG_ENTRY
from rtc_flower.entries import (
    AbsenceReason,
    Absent,
    CloseReason,
    Enrolment,
    Entry,
    Evidence,
    Genesis,
    Invite,
    Refusal,
    Refused,
    encode_leaf,
)
from rtc_flower.maintenance import repair
from rtc_flower.merkle import leaf_hash
from rtc_flower.roster import Roster
from rtc_flower.schema import DERIVED, SCHEMA_VERSION, BlockRows, create
from rtc_flower.signatures import hand_over
from rtc_flower.verify import Report, Verdict, verify


def busy_world() -> World:
    """Two tasks with everything in them: waves, refusals, absences, late and uncounted ballots."""
    world = World.with_voters(5)
    tally = world.post(5, n=3, invite=3)
    a, b, c = (world.ranked(i) for i in range(3))
    world.add(Refused(tally.task_id, a.public, Refusal.SIGNATURE, b"\x05" * 32, 77))
    world.vote(a, [0, 1, None])
    world.absent(b)
    world.vote(b, [2, 2, 2])
    world.vote(c, [0, 1, 1])
    world.invite(2)
    world.vote(world.ranked(3), [0, 1, 2])
    world.vote(world.ranked(4), [0, 1, 2])
    world.post(3, n=2)
    first, second = (make_ballot(world.replay, voter(0), [1, last]) for last in (1, 2))
    world.add(first)
    world.add(Evidence(first.header, first.signature, second.header, second.signature))
    for i in (1, 2):
        world.vote(voter(i), [1, 2])
    return world


@pytest.fixture(scope="module")
def busy() -> World:
    return busy_world()


@pytest.fixture(scope="module")
def original(busy: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busy.write(tmp_path_factory.mktemp("verify") / "ledger.db")


@pytest.fixture(scope="module")
def rotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose server changed its key."""
    world = World.with_voters(2)
    world.add(hand_over(SERVER, NEXT, ledger_id=world.replay.ledger_id))
    return world.write(tmp_path_factory.mktemp("rotated") / "ledger.db")


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(original, tmp_path / "ledger.db"))


def bad_steps(report: Report) -> list[str]:
    return [step.number for step in report.steps.values() if step.verdict is Verdict.BAD]


def assert_bad(path: Path, step: str, detail: str = "", **options: Any) -> Report:
    """``step`` is bad, nothing else is, and the exit code is 1."""
    report = verify(path, **options)
    assert bad_steps(report) == [step], report.summary
    assert detail in report.steps[step].detail
    assert report.summary.startswith(f"{step} bad: ")
    assert report.exit_code == 1
    return report


def test_an_honest_ledger_is_ok_in_every_step(path: Path, busy: World) -> None:
    report = verify(path)
    assert report.summary == "ok"
    assert report.exit_code == 0
    verdicts = {number: step.verdict for number, step in report.steps.items()}
    assert verdicts.pop("V11") is verdicts.pop("V13") is Verdict.NOT_CHECKED
    assert set(verdicts.values()) == {Verdict.OK}
    assert list(report.steps) == [f"V{i}" for i in range(1, 14)]
    assert report.ledger_id == busy.replay.ledger_id.hex()
    assert report.entries == len(busy.log)
    assert report.tasks == 2
    assert report.ballots == query(path, "SELECT count(*) FROM ballot")[0][0]
    assert report.votes == query(path, "SELECT count(*) FROM block")[0][0]
    assert Checkpoint.verify(report.checkpoint, SERVER.public).size == len(busy.log)
    assert [note.split(":")[0] for note in report.notes] == ["open enrolment", "evidence"]


def test_a_held_checkpoint_of_any_size_is_ok(path: Path, busy: World) -> None:
    for size in range(len(busy.log) + 1):
        held = Checkpoint(busy.replay.ledger_id, size, busy.replay.roots[size]).sign(SERVER)
        report = verify(path, held=held, ledger_id=busy.replay.ledger_id)
        assert report.steps["V11"].verdict is Verdict.OK
        assert report.exit_code == 0


# -- V1 ----------------------------------------------------------------------------------


def test_v1_no_file_an_empty_file_and_what_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert_bad(path, "V1", "found none")
    assert_bad(tmp_path, "V1", f"found a folder; name {path}")
    for content in (b"", b"hello", b"SQLite format 3\0", bytes(8192), b"x" * 8192):
        path.write_bytes(content)
        assert_bad(path, "V1")


def test_v1_another_database(tmp_path: Path) -> None:
    path = tmp_path / "newer.db"  # the name of a file decides nothing
    tamper(path, "CREATE TABLE entry (idx INTEGER PRIMARY KEY, leaf BLOB)")
    assert_bad(path, "V1", "got another database")


def test_v1_half_a_file(path: Path) -> None:
    whole = path.read_bytes()
    for part in (1, 2, 3):
        path.write_bytes(whole[: part * len(whole) // 4])
        assert_bad(path, "V1")


def test_v1_bytes_behind_the_last_page_and_their_repair(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"behind")
    assert_bad(path, "V1", "bytes of pages")
    assert repair(path).exit_code == 0
    assert verify(path).exit_code == 0


def test_a_newer_format_is_not_checked(path: Path) -> None:
    tamper(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    report = verify(path)
    assert report.exit_code == 2
    assert {step.verdict for step in report.steps.values()} == {Verdict.NOT_CHECKED}
    assert report.summary.startswith("not checked: ")
    assert "Install a newer rtc-flower" in report.summary


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE extra (a)",
        "CREATE INDEX extra ON block (class)",
        "CREATE TRIGGER extra AFTER INSERT ON entry BEGIN DELETE FROM entry; END",
        "ALTER TABLE block ADD COLUMN extra TEXT",
        "ALTER TABLE decision RENAME COLUMN class TO klass",
        "DROP TABLE refusal",
        "DROP VIEW node_score",
        "ANALYZE",
    ],
)
def test_v1_tables_altered(path: Path, statement: str) -> None:
    tamper(path, statement)
    assert_bad(path, "V1", "got others")


@pytest.mark.parametrize("view", VIEWS)
def test_v1_a_lying_view(path: Path, view: str) -> None:
    tamper(path, f"DROP VIEW {view}", f"CREATE VIEW {view} AS {VIEWS[view]} LIMIT 1")
    assert_bad(path, "V1", "got others")


@pytest.mark.parametrize("space", [" ", "\n", "\t", "\r\n"])
@pytest.mark.parametrize("quotes", ['""', "[]", "``"])
def test_v1_a_view_that_lies_with_quotes_alone(path: Path, quotes: str, space: str) -> None:
    left, right = quotes[0], quotes[1]
    lie = VIEWS["outcome"].replace("d.support", f"{left}d.support{right}")
    tamper(path, "DROP VIEW outcome", f'CREATE VIEW "outcome" AS{space}{lie.strip()}')
    assert_bad(path, "V1", "got others")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO class VALUES (9, 9, CAST(x'ff' AS TEXT))",
        "INSERT INTO cosignature VALUES (1, x'00', CAST(x'ff' AS TEXT))",
        "UPDATE decision SET how = CAST(x'ff' AS TEXT) WHERE task = 2",
    ],
)
@pytest.mark.parametrize("change", ["leaf = x'00'", "leaf = zeroblob(16)", "idx = -1"])
def test_v1_a_text_that_no_other_step_reads(path: Path, statement: str, change: str) -> None:
    tamper(path, statement, f"UPDATE entry SET {change} WHERE idx = 1")
    report = assert_bad(path, "V1", "Could not decode to UTF-8")
    assert {s.verdict for n, s in report.steps.items() if n != "V1"} == {Verdict.NOT_CHECKED}


def test_v1_a_damaged_page_that_no_other_step_reads(path: Path) -> None:
    tamper(path, "UPDATE entry SET leaf = x'00' WHERE idx = 1")
    (page,) = query(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'block'")[0]
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[16:18], "big")
    data[(page - 1) * size] = 0
    path.write_bytes(data)
    assert_bad(path, "V1")


# -- V2 ----------------------------------------------------------------------------------


def test_v2_a_missing_a_negative_and_no_entry(path: Path) -> None:
    tamper(path, "UPDATE entry SET idx = -1 WHERE idx = 0")
    assert_bad(path, "V2", "expected entry 0, found -1")
    tamper(path, "UPDATE entry SET idx = 0 WHERE idx = -1", "DELETE FROM entry WHERE idx = 4")
    assert_bad(path, "V2", "expected entry 4, found 5")
    tamper(path, "DELETE FROM entry")
    assert_bad(path, "V2", "expected at least GENESIS")


def test_v2_an_entry_that_does_not_decode(busy: World, tmp_path: Path) -> None:
    for index in (0, 3, len(busy.log) - 1):
        log = [*busy.log[:index], busy.log[index] + b"\0", *busy.log[index + 1 :]]
        path = forge(tmp_path / f"{index}.db", log)
        held = Checkpoint(busy.replay.ledger_id, 1, busy.replay.roots[1]).sign(SERVER)
        for mine in (None, held):
            report = verify(path, held=mine)
            assert bad_steps(report) == ["V2"]
            assert report.steps["V2"].detail.startswith(f"entry {index}: ")


# -- V3 ----------------------------------------------------------------------------------


def test_v3_another_ledger_than_expected(path: Path) -> None:
    assert_bad(path, "V3", "expected another ledger", ledger_id=bytes(32))


# -- V4, R1 to R13 -----------------------------------------------------------------------


def task_world() -> World:
    world = World.with_voters(4)
    world.post(3, n=2, invite=2)
    return world


def _second_genesis(world: World) -> Entry:
    return Genesis(bytes(32), SERVER.public)


def _r3(world: World) -> Entry:
    return make_task(world.replay, [voter(0)])


def _r4(world: World) -> Entry:
    world.add(world.tally.close(CloseReason.ABORTED))
    return make_task(world.replay, [voter(0)], min_ballots=2)


def _r7(world: World) -> Entry:
    key = world.ranked(0)
    world.vote(key, [0, 0])
    return make_ballot(world.replay, key, [1, 1])


def _r10(world: World) -> Entry:
    world.vote(world.ranked(0), [0, 0])
    return Absent(world.tally.task_id, world.ranked(0).public, AbsenceReason.ERROR)


def _r11(world: World) -> Entry:
    entry = Refused(world.tally.task_id, world.ranked(0).public, Refusal.SIZE, bytes(32), 1)
    for _ in range(4):
        world.add(entry)
    return entry


def _r12(world: World) -> Entry:
    world.vote(world.ranked(0), [0, 0])
    world.add(make_ballot(world.replay, world.ranked(1), [0, 0]), close=False)
    assert world.replay.due is not None
    return replace(world.replay.due, counted=1)


BROKEN: dict[str, Callable[[World], Entry]] = {
    "R1": _second_genesis,
    "R2": lambda world: replace(world.roster([voter(7)]), version=5),
    "R3": _r3,
    "R4": _r4,
    "R5": lambda world: Invite(world.tally.task_id, 9),
    "R6": lambda world: make_ballot(world.replay, voter(3), [0, 0]),
    "R7": _r7,
    "R8": lambda world: make_ballot(world.replay, world.ranked(0), [0, 3]),
    "R9": lambda world: make_ballot(
        world.replay, world.ranked(0), [0, 0], seen=(world.replay.size, bytes(32))
    ),
    "R10": _r10,
    "R11": _r11,
    "R12": _r12,
    "R13": lambda world: world.tally.close(CloseReason.DECIDED),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_v4_names_the_rule_that_an_entry_breaks(rule: str, tmp_path: Path) -> None:
    world = task_world()
    entry = BROKEN[rule](world)
    path = forge(tmp_path / "ledger.db", [*world.log, encode_leaf(entry, NOW)])
    report = assert_bad(path, "V4", f"entry {len(world.log)}, rule {rule}: ")
    later = ("V5", "V6", "V8", "V9", "V10")
    assert {report.steps[n].verdict for n in later} == {Verdict.NOT_CHECKED}


def test_v4_two_entries_swapped(busy: World, tmp_path: Path) -> None:
    log = busy.log.copy()
    log[4], log[5] = log[5], log[4]
    report = verify(forge(tmp_path / "ledger.db", log))
    assert report.exit_code == 1


# -- V5, V6 ------------------------------------------------------------------------------


def test_v5_a_ballot_that_its_voter_did_not_sign(tmp_path: Path) -> None:
    world = task_world()
    ballot = make_ballot(world.replay, world.ranked(0), [0, 0])
    forged = replace(ballot, signature=SERVER.sign(ballot.header.encode()))
    world.add(forged)
    assert_bad(world.write(tmp_path / "ledger.db"), "V5", f"entry {len(world.log) - 1}: ")


def test_v6_a_roster_signed_by_the_server_where_an_admin_enrols(tmp_path: Path) -> None:
    world = World(enrolment=Enrolment.ROSTER, admin_key=ADMIN.public)
    honest = world.roster([voter(0)])
    path = forge(tmp_path / "honest.db", [*world.log, encode_leaf(honest, NOW)])
    report = verify(path)
    assert report.summary == "ok"
    assert report.notes == []
    world.add(honest.sign(SERVER, ledger_id=world.replay.ledger_id))
    assert_bad(world.write(tmp_path / "ledger.db"), "V6", "entry 1: ")


def test_v6_a_roster_of_another_ledger(world: World, tmp_path: Path) -> None:
    other = Roster().enrol([(voter(0).public, "a")]).sign(SERVER, ledger_id=bytes(32))
    log = [world.log[0], encode_leaf(other, NOW)]
    assert_bad(forge(tmp_path / "ledger.db", log), "V6")


def test_v6_a_server_key_that_the_old_or_the_new_key_did_not_sign(
    world: World, tmp_path: Path, rotated: Path
) -> None:
    assert verify(rotated).summary == "ok"
    entry = hand_over(SERVER, NEXT, ledger_id=world.replay.ledger_id)
    for i, broken in enumerate(
        (
            replace(entry, old_signature=entry.new_signature),
            replace(entry, new_signature=entry.old_signature),
            hand_over(SERVER, NEXT, ledger_id=bytes(32)),
        )
    ):
        log = [*world.log, encode_leaf(broken, NOW)]
        assert_bad(forge(tmp_path / f"{i}.db", log), "V6", "entry 2: ")


def test_v7_the_old_key_signs_no_checkpoint_after_its_rotation(rotated: Path, path: Path) -> None:
    shutil.copy(rotated, path)
    note = query(path, "SELECT note FROM checkpoint")[0][0]
    state = Checkpoint.parse(note)
    tamper(path, ("UPDATE checkpoint SET note = ?", (state.sign(SERVER),)))
    assert_bad(path, "V7", "found none")


def test_v5_evidence_that_its_voter_did_not_sign(world: World, tmp_path: Path) -> None:
    world.post(3, n=1)
    one, two = (make_ballot(world.replay, voter(0), [v]) for v in (0, 1))
    world.add(Evidence(one.header, one.signature, two.header, one.signature))
    assert_bad(world.write(tmp_path / "ledger.db"), "V5", "entry 4: ")


def test_v12_cosignatures_of_enrolled_nodes_on_this_log_only(
    path: Path, original: Path, busy: World
) -> None:
    state = Checkpoint(busy.replay.ledger_id, 5, busy.replay.roots[5])
    other = Checkpoint(busy.replay.ledger_id, 5, bytes(32))
    insert = "INSERT INTO cosignature VALUES (?, ?, ?)"
    member, stranger = voter(0), voter(50)
    tamper(path, (insert, (5, member.public, state.cosign(member, seconds=1))))
    assert verify(path).summary == "ok"
    for row in (
        (5, stranger.public, state.cosign(stranger, seconds=1)),
        (5, member.public, other.cosign(member, seconds=1)),
        (5, member.public, state.cosign(stranger, seconds=1)),
        (6, member.public, state.cosign(member, seconds=1)),
        (-6, member.public, state.cosign(member, seconds=1)),
        (999, member.public, state.cosign(member, seconds=1)),
        (5, member.public, "nonsense"),
        (5, b"", ""),
    ):
        shutil.copy(original, path)
        tamper(path, (insert, row))
        assert_bad(path, "V12", "cosignature of ")


# -- V7, V8 ------------------------------------------------------------------------------


def test_v7_a_checkpoint_that_another_key_signed(busy: World, tmp_path: Path) -> None:
    assert_bad(forge(tmp_path / "ledger.db", busy.log, key=voter(0)), "V7", "found none")


@pytest.mark.parametrize(
    ("row", "size", "root"),
    [(3, 3, b"x" * 32), (3, 4, None), (-5, 3, None), (-(10**6), 3, None), (0, 0, b"x" * 32)],
)
def test_v7_a_checkpoint_that_states_another_log(
    path: Path, busy: World, row: int, size: int, root: bytes | None
) -> None:
    state = Checkpoint(busy.replay.ledger_id, size, root or busy.replay.roots[size])
    tamper(path, ("INSERT INTO checkpoint VALUES (?, ?)", (row, state.sign(SERVER))))
    assert_bad(path, "V7")


def test_v7_a_checkpoint_of_another_ledger_or_none(path: Path, busy: World) -> None:
    state = Checkpoint(bytes(32), 3, busy.replay.roots[3]).sign(SERVER)
    tamper(path, ("INSERT INTO checkpoint VALUES (3, ?)", (state,)))
    assert_bad(path, "V7", "checkpoint 3: expected 'rtc-flower/ledger/")
    tamper(path, "UPDATE checkpoint SET note = 'nothing' WHERE size = 3")
    assert_bad(path, "V7", "checkpoint 3: ")


def test_v8_a_log_that_no_checkpoint_covers(path: Path, busy: World) -> None:
    size = len(busy.log)
    short = Checkpoint(busy.replay.ledger_id, size - 1, busy.replay.roots[size - 1]).sign(SERVER)
    tamper(path, ("UPDATE checkpoint SET size = ?, note = ?", (size - 1, short)))
    assert_bad(path, "V8", f"expected a checkpoint of {size} entries, got {size - 1}")
    tamper(path, "DELETE FROM checkpoint")
    assert_bad(path, "V8", "got None")


def test_v8_entries_cut_off_behind_the_last_checkpoint(busy: World, tmp_path: Path) -> None:
    path = forge(tmp_path / "ledger.db", busy.log[:-4])
    ahead = Checkpoint(busy.replay.ledger_id, len(busy.log), busy.replay.roots[-1]).sign(SERVER)
    tamper(path, ("INSERT INTO checkpoint VALUES (?, ?)", (len(busy.log), ahead)))
    report = verify(path)
    assert bad_steps(report) == ["V7", "V8"]  # it states what is not there, and ends beyond
    assert report.steps["V7"].detail.endswith("expected one of at most 16 entries")
    assert report.steps["V8"].detail.endswith(f"got {len(busy.log)}")


def test_v8_a_close_that_is_missing(tmp_path: Path) -> None:
    world = task_world()
    world.vote(world.ranked(0), [0, 0])
    world.add(make_ballot(world.replay, world.ranked(1), [0, 0]), close=False)
    assert_bad(world.write(tmp_path / "ledger.db"), "V8", "at the end, found nothing")


# -- V9, V10 -----------------------------------------------------------------------------


def _changes() -> list[tuple[str, str]]:
    return [(table, column) for table in DERIVED for column in COLUMNS[table]]


@pytest.mark.parametrize(("table", "column"), _changes())
def test_v9_any_column_of_any_row_changed(
    path: Path, rotated: Path, table: str, column: str
) -> None:
    if table == "server_key":
        shutil.copy(rotated, path)
    kind = COLUMNS[table][column]
    new = {"INTEGER": "c + 1000000", "TEXT": "c || 'x'", "BLOB": "x'00'"}[kind]
    new = new.replace("c", f'"{column}"', 1)
    rows = query(path, f'SELECT rowid FROM "{table}" WHERE "{column}" IS NOT NULL')
    assert rows
    row = rows[len(rows) // 2][0]
    tamper(path, f'UPDATE "{table}" SET "{column}" = {new} WHERE rowid = {row}')
    assert_bad(path, "V9", f"table {table}: ")


@pytest.mark.parametrize("table", DERIVED)
def test_v9_a_row_missing_or_too_many(
    path: Path, original: Path, rotated: Path, table: str
) -> None:
    if table == "server_key":
        original = rotated
        shutil.copy(rotated, path)
    (last,) = query(path, f'SELECT max(rowid) FROM "{table}"')[0]
    tamper(path, f'DELETE FROM "{table}" WHERE rowid = {last}')
    assert_bad(path, "V9", f"table {table}: ")
    shutil.copy(original, path)
    tamper(path, f'DELETE FROM "{table}"')
    assert_bad(path, "V9", f"table {table}: ")
    shutil.copy(original, path)
    columns = COLUMNS[table]
    first = next(iter(columns))
    values = ", ".join(f'"{c}" + 1000000' if c == first else f'"{c}"' for c in columns)
    tamper(path, f'INSERT INTO "{table}" SELECT {values} FROM "{table}" WHERE rowid = {last}')
    assert_bad(path, "V9", f"table {table}: expected no further row")


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_v9_block_rows_are_joined_only_where_sqlite_recodes_no_hash(
    original: Path, tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls, joined = tmp_path / "other.db", [], BlockRows.are_in
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA encoding = '{encoding}'")
        create(connection)
        for table in query(path, "SELECT name FROM sqlite_schema WHERE type = 'table'"):
            for row in query(original, 'SELECT * FROM "{}"'.format(*table)):
                marks = ", ".join("?" * len(row))
                connection.execute('INSERT INTO "{}" VALUES ({})'.format(*table, marks), row)

    def are_in(*args: Any, **options: Any) -> int | None:
        calls.append(joined(*args, **options))
        return calls[-1]

    monkeypatch.setattr(BlockRows, "are_in", are_in)
    assert verify(path).summary == "ok"
    assert (len(calls) > 0) is (encoding == "UTF-8")
    assert None not in calls
    (row,) = query(path, "SELECT max(id) FROM block")[0]
    tamper(path, f"UPDATE block SET hash = zeroblob(32) WHERE id = {row}")
    assert_bad(path, "V9", "table block: expected row (")


@pytest.mark.parametrize("row", [-(2**63), -1, 0, 2**63 - 1])
@pytest.mark.parametrize("votes", [[0, 1], [None, None]])
def test_v9_a_block_row_that_no_vote_can_have(
    tmp_path: Path, row: int, votes: list[int | None]
) -> None:
    world = World.with_voters(2)
    world.post(2, n=2)
    for i in range(2):
        world.vote(voter(i), votes)
    path = world.write(tmp_path / "ledger.db")
    assert verify(path).summary == "ok"
    tamper(path, ("INSERT INTO block VALUES (?, 0, ?)", (row, bytes(32))))
    assert_bad(path, "V9", f"({row}, 0")


def test_v9_after_a_wrong_block_row_no_more_rows_are_joined(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, joined = [], BlockRows.are_in

    def are_in(*args: Any, **options: Any) -> int | None:
        calls.append(joined(*args, **options))
        return calls[-1]

    monkeypatch.setattr(BlockRows, "are_in", are_in)
    tamper(path, "DELETE FROM block WHERE id = (SELECT min(id) FROM block)")
    assert_bad(path, "V9", "table block: expected row (1, ")
    assert calls == [None]  # every row behind it would be read again for every ballot


def test_v9_says_which_block_row_it_is(path: Path) -> None:
    (row, kind) = query(path, "SELECT id, class FROM block ORDER BY id LIMIT 1 OFFSET 7")[0]
    tamper(path, f"UPDATE block SET class = {kind + 1} WHERE id = {row}")
    assert_bad(path, "V9", f"table block: expected row ({row}, {kind}, ")
    assert f"found ({row}, {kind + 1}, " in verify(path).steps["V9"].detail


def test_v10_a_sample_set_missing_exchanged_broken_or_too_many(path: Path, original: Path) -> None:
    for statement, detail in (
        ("DELETE FROM samples WHERE task = 2", "task 2: expected its sample set, found none"),
        (("UPDATE samples SET data = ? WHERE task = 2", (sample_set(9),)), "task 2: expected the"),
        ("UPDATE samples SET data = x'00' WHERE task = 1", "task 1: "),
        ("INSERT INTO samples VALUES (3, x'00')", "expected 2 sample sets"),
        ("INSERT INTO samples VALUES (-3, x'00')", "expected 2 sample sets"),
    ):
        shutil.copy(original, path)
        tamper(path, statement)
        assert_bad(path, "V10", detail)


# -- V11 ---------------------------------------------------------------------------------


def test_v11_a_file_that_was_rolled_back(busy: World, tmp_path: Path) -> None:
    size = len(busy.log)
    held = Checkpoint(busy.replay.ledger_id, size, busy.replay.roots[-1]).sign(SERVER)
    path = forge(tmp_path / "ledger.db", busy.log[:2])
    assert_bad(path, "V11", f"your checkpoint has {size} entries, the file 2", held=held)


def test_v11_another_history(path: Path, busy: World) -> None:
    held = Checkpoint(busy.replay.ledger_id, 5, b"x" * 32).sign(SERVER)
    assert_bad(path, "V11", "another history: the roots at size 5 differ", held=held)


def test_v11_another_ledger_another_key_no_checkpoint(path: Path, busy: World) -> None:
    other = Checkpoint(bytes(32), 5, busy.replay.roots[5])
    assert_bad(path, "V11", "expected this ledger", held=other.sign(SERVER))
    mine = Checkpoint(busy.replay.ledger_id, 5, busy.replay.roots[5])
    assert_bad(path, "V11", "found none", held=mine.sign(voter(0)))
    for text in ("", "nonsense", mine.body()):
        assert_bad(path, "V11", held=text)


def test_v11_is_not_checked_beyond_what_could_be_read(busy: World, tmp_path: Path) -> None:
    log = [*busy.log[:6], b"broken", *busy.log[7:]]
    held = Checkpoint(busy.replay.ledger_id, 9, busy.replay.roots[9]).sign(SERVER)
    report = assert_bad(forge(tmp_path / "ledger.db", log), "V2", held=held)
    assert report.steps["V11"].verdict is Verdict.NOT_CHECKED
    assert report.steps["V11"].detail == "only 6 entries could be read"


def test_v11_nobody_knows_the_server_key_beyond_a_bad_entry(world: World, tmp_path: Path) -> None:
    path = forge(tmp_path / "ledger.db", [*world.log, b"broken"])
    beyond, other = (
        Checkpoint(name, 9, bytes(32)).sign(NEXT) for name in (world.replay.ledger_id, bytes(32))
    )
    report = assert_bad(path, "V2", held=beyond)
    assert report.steps["V11"].verdict is Verdict.NOT_CHECKED
    for wrong in (other, beyond + "text\n"):
        assert bad_steps(verify(path, held=wrong)) == ["V2", "V11"]


# -- newer entries and rules -------------------------------------------------------------


def newer_type(world: World) -> bytes:
    return TAG_ENTRY + b"\x0b" + bytes(8) + b"evidence"


def newer_rule(world: World) -> bytes:
    return encode_leaf(replace(make_task(world.replay, [voter(0)]), rule=5), NOW)


@pytest.mark.parametrize("newer", [newer_type, newer_rule])
def test_what_depends_on_a_newer_entry_is_not_checked(
    newer: Callable[[World], bytes], world: World, tmp_path: Path
) -> None:
    log = [*world.log, newer(world), b"what follows may be anything"]
    path = forge(tmp_path / "ledger.db", log)
    report = verify(path)
    assert report.exit_code == 2
    assert bad_steps(report) == []
    assert report.summary.startswith("not checked: entry 2: ")
    ok = [n for n, step in report.steps.items() if step.verdict is Verdict.OK]
    assert ok == ["V1", "V3", "V7"]


def test_a_newer_entry_leaves_the_key_of_later_checkpoints_open(
    world: World, tmp_path: Path
) -> None:
    ledger_id = world.replay.ledger_id
    handed = encode_leaf(hand_over(SERVER, NEXT, ledger_id=ledger_id), NOW)
    log = [*world.log, newer_type(world), handed]
    path = forge(tmp_path / "ledger.db", log, key=NEXT)
    note = query(path, "SELECT note FROM checkpoint")[0][0]
    report = verify(path, held=note)
    assert (report.exit_code, bad_steps(report)) == (2, [])
    unsure = {n for n in ("V7", "V11") if report.steps[n].verdict is Verdict.NOT_CHECKED}
    assert unsure == {"V7", "V11"}
    stated = Checkpoint.parse(note)
    assert_bad(path, "V11", "another history", held=replace(stated, root=bytes(32)).sign(NEXT))
    early = Checkpoint(ledger_id, 2, world.replay.roots[2])
    assert_bad(path, "V11", "found none", held=early.sign(NEXT))
    tamper(path, ("UPDATE checkpoint SET note = ?", (replace(stated, root=bytes(32)).sign(NEXT),)))
    assert_bad(path, "V7")


def test_a_newer_genesis_is_not_checked(tmp_path: Path) -> None:
    leaf = newer_genesis()
    report = verify(forge(tmp_path / "ledger.db", [leaf]))
    assert (report.exit_code, bad_steps(report)) == (2, [])
    assert report.steps["V7"].verdict is Verdict.NOT_CHECKED
    path = tmp_path / "ledger.db"
    mine, other = (
        Checkpoint(name, 1, bytes(32)).sign(SERVER) for name in (leaf_hash(leaf), bytes(32))
    )
    assert verify(path, held=mine).exit_code == 2
    assert_bad(path, "V11", "expected this ledger", held=other)


def test_a_newer_entry_hides_no_broken_history(world: World, tmp_path: Path) -> None:
    """The type byte of an entry changed to one that nobody knows."""
    held = Checkpoint(world.replay.ledger_id, 2, world.replay.roots[2]).sign(SERVER)
    changed = bytearray(world.log[1])
    changed[16] = 99
    path = forge(tmp_path / "ledger.db", [world.log[0], bytes(changed)])
    assert verify(path).exit_code == 2
    assert_bad(path, "V11", "another history", held=held)


def test_a_task_too_large_for_memory_is_not_checked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError("2 TiB for the forks of a task")

    monkeypatch.setattr("rtc_flower.tally.Forks", full)
    report = verify(path)
    assert (report.exit_code, bad_steps(report)) == (2, [])
    assert "2 TiB" in report.summary
    assert report.steps["V7"].verdict is Verdict.OK
    other = Checkpoint(bytes.fromhex(report.ledger_id), 3, bytes(32)).sign(SERVER)
    assert_bad(path, "V11", "another history", held=other)


# -- notes -------------------------------------------------------------------------------


def test_notes_say_what_no_check_can_tell(tmp_path: Path) -> None:
    world = World(enrolment=Enrolment.REPLAY)
    world.add(world.roster([voter(0)]))
    world.post(1, n=1)
    notes = verify(world.write(tmp_path / "open.db")).notes
    assert notes == ["replay: these votes did not come from nodes", "task 1 is open"]
    world.add(world.tally.close(CloseReason.ABORTED))
    report = verify(world.write(tmp_path / "aborted.db"))
    assert report.exit_code == 0
    assert report.notes[1] == "task 1 was aborted by the operator"


def test_ledger_id_is_the_leaf_hash_of_genesis(busy: World, path: Path) -> None:
    assert bytes.fromhex(verify(path).ledger_id) == leaf_hash(busy.log[0])


def test_verify_reads_and_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    path.chmod(0o400)
    assert verify(path).exit_code == 0
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["ledger.db"]
