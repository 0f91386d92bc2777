"""F2 to F7: torn pages, full disks, flipped bits, two writers, wrong clocks, old files; fuzzing.

F1, a failure at any system call of an append, is in ``test_crashes.py``.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ledgers import (
    NOW,
    SERVER,
    cast,
    log_of,
    make_ballot,
    open_ledger,
    post,
    query,
    voter,
)

import rtc_flower.ledger
from rtc_flower.ballot import Ballot, sign
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.entries import AbsenceReason, Refusal
from rtc_flower.errors import BallotError, LedgerFullError, UnsupportedError
from rtc_flower.keys import SigningKey
from rtc_flower.ledger import Ledger
from rtc_flower.receipts import KeptReceipt
from rtc_flower.stopping import Rule
from rtc_flower.verify import Verdict, verify

HERE = Path(__file__).parent
WRITER = HERE / "fault_writer.py"
FROZEN = HERE / "frozen"


# -- F2: torn pages --------------------------------------------------------------------------


@dataclass(frozen=True)
class Torn:
    """An append that was cut off after its journal was on disk and before it was removed.

    Attributes
    ----------
    folder : Path
        As the disk was: the database half written, and the journal.
    log : list of bytes
        The log before the append.
    before, after : bytes
        The database before the append, and once it had finished.
    journal : bytes
    """

    folder: Path
    log: list[bytes]
    before: bytes
    after: bytes
    journal: bytes

    @property
    def page_size(self) -> int:
        return int.from_bytes(self.before[16:18], "big")

    def pages(self) -> list[int]:
        """Numbers of the journalled pages, from 1, as SQLite's journal lists them."""
        found, at = [], 0
        while at + 28 <= len(self.journal):
            head = self.journal[at : at + 28]
            if head[:8] != bytes.fromhex("d9d505f920a163d7"):
                break  # not synced yet: none of its pages has been written
            records, sector = (int.from_bytes(head[i : i + 4], "big") for i in (8, 20))
            at += sector
            for _ in range(records):
                found.append(int.from_bytes(self.journal[at : at + 4], "big"))
                at += 8 + self.page_size
            at += -at % sector
        return found

    def page(self, data: bytes, number: int) -> bytes:
        return data[(number - 1) * self.page_size : number * self.page_size]


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Torn:
    base = tmp_path_factory.mktemp("torn") / "base"
    base.mkdir()
    path, hot = base / "ledger.db", base.with_name("hot")
    with open_ledger(path) as ledger, pytest.MonkeyPatch.context() as patch:
        post(ledger, 3, n=900)
        cast(ledger, voter(0), [0] * 900)
        before, log = path.read_bytes(), log_of(path)
        ledger._db.execute("PRAGMA cache_size = 2")  # so that pages go out before COMMIT
        insert = rtc_flower.ledger._insert

        def interrupted(*args: Any, **options: Any) -> str:
            note = insert(*args, **options)
            shutil.copytree(base, hot)
            return note

        patch.setattr(rtc_flower.ledger, "_insert", interrupted)
        cast(ledger, voter(1), [1] * 900)
        after = path.read_bytes()
    assert (hot / "ledger.db").read_bytes() not in (before, after)
    return Torn(hot, log, before, after, (hot / "ledger.db-journal").read_bytes())


def assert_recovers(folder: Path, log: list[bytes]) -> None:
    path = folder / "ledger.db"
    with Ledger(path, SERVER) as ledger:
        assert log_of(path) == log
        cast(ledger, voter(1), [1] * 900)
    assert verify(path).summary == "ok"


def test_f2_every_journalled_page_torn(tmp_path: Path, torn: Torn) -> None:
    pages, half = torn.pages(), torn.page_size // 2
    assert len(pages) >= 5
    for number in pages:
        old, new = torn.page(torn.before, number), torn.page(torn.after, number)
        noise = random.Random(number).randbytes(torn.page_size)
        for tear in (new[:half] + old[half:], old[:half] + new[half:], noise):
            folder = Path(shutil.copytree(torn.folder, tmp_path / "run"))
            with (folder / "ledger.db").open("r+b") as file:
                file.seek((number - 1) * torn.page_size)
                file.write(tear)
            assert_recovers(folder, torn.log)
            shutil.rmtree(folder)


def test_f2_a_journal_torn_anywhere_before_the_database_was_touched(
    tmp_path: Path, torn: Torn
) -> None:
    path = tmp_path / "ledger.db"
    for cut in range(0, len(torn.journal), 1536):
        path.write_bytes(torn.before)
        (tmp_path / "ledger.db-journal").write_bytes(torn.journal[:cut])
        with Ledger(path, SERVER):
            assert log_of(path) == torn.log
    assert verify(path).summary == "ok"


# -- F3: full disk ---------------------------------------------------------------------------

WIDE = 1500


def _enrol(ledger: Ledger) -> None:
    ledger.enrol([(voter(i).public, f"one of many {i}") for i in range(20, 90)])


def _post(ledger: Ledger) -> None:
    post(ledger, 3, k=900)


def _ballot(ledger: Ledger) -> None:
    cast(ledger, voter(2), [1] * WIDE)


def _absence(ledger: Ledger) -> None:
    ledger.absent(voter(2).public, AbsenceReason.DEADLINE)  # brings CLOSE and all decisions


APPENDS = {"enrol": _enrol, "post": _post, "ballot": _ballot, "absence": _absence}


@pytest.mark.parametrize("name", APPENDS)
def test_f3_a_disk_full_at_any_page_is_rolled_back_and_goes_on_with_space(
    tmp_path: Path, name: str
) -> None:
    append = APPENDS[name]
    with open_ledger(tmp_path / "ledger.db") as ledger:
        if name in ("ballot", "absence"):
            post(ledger, 3, n=WIDE, rule=Rule.ALL)
            cast(ledger, voter(0), [0] * WIDE)
            cast(ledger, voter(1), [1] * WIDE)
        ledger._db.execute("PRAGMA cache_size = 10")
        log, note, size = log_of(ledger.path), ledger.checkpoint, ledger.replay.size
        (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
        failures = 0
        while True:
            ledger._db.execute(f"PRAGMA max_page_count = {pages + failures}")
            try:
                append(ledger)
                break
            except LedgerFullError:
                failures += 1
            assert (log_of(ledger.path), ledger.checkpoint, ledger.replay.size) == (log, note, size)
            assert ledger.head_file.read_text() == note
        assert failures >= 2
        assert ledger.replay.size > size
        assert verify(ledger.path, held=note).summary == "ok"


# -- F4: bit rot -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with every kind of table filled."""
    path = tmp_path_factory.mktemp("rot") / "ledger.db"
    with open_ledger(path, voters=5) as ledger:
        everything(ledger)
    assert verify(path).exit_code == 0
    return path


def everything(ledger: Ledger) -> None:
    """Two tasks with ballots, a refusal, an absence, a late ballot, evidence and a cosignature."""
    post(ledger, 5, n=60, rule=Rule.ALL)
    for number in range(3):
        cast(ledger, voter(number), [number % 2] * 60)
    second = make_ballot(ledger.replay, voter(0), [2] * 60).encode()
    assert ledger.accuse(second, voter=voter(0).public)
    ledger.refuse(voter(3).public, Refusal.FORMAT, content=b"rubbish")
    late = make_ballot(ledger.replay, voter(3), [1] * 60).encode()
    for number in (3, 4):
        ledger.absent(voter(number).public, AbsenceReason.DEADLINE)
    ledger.submit(late, voter=voter(3).public)
    stated = Checkpoint(ledger.replay.ledger_id, ledger.replay.size, ledger.replay.roots[-1])
    line = stated.cosign(voter(1), seconds=NOW // 1000)
    ledger.cosign(ledger.replay.size, line, voter=voter(1).public)
    post(ledger, 4, n=40, rule=Rule.PAPER)
    for number in range(4):
        if ledger.tally.closed is None:
            cast(ledger, voter(number), [0] * 40)


def rows_of(path: Path) -> dict[str, Any] | None:
    """All that the file says, read as it lies and by its keys; None where SQLite refuses it."""
    try:
        names = [name for (name,) in query(path, "SELECT name FROM sqlite_schema")]
        said: dict[str, Any] = {"schema": query(path, "SELECT type, name, sql FROM sqlite_schema")}
        for pragma in ("application_id", "user_version"):
            said[pragma] = query(path, f"PRAGMA {pragma}")
        for name in names:
            if not name.startswith("sqlite_"):
                said[name] = query(path, f'SELECT * FROM "{name}"')
                columns = query(path, f'PRAGMA table_info("{name}")')
                key = ", ".join(str(row[1]) for row in columns if row[5])
                if key:  # a damaged index loses rows for those who ask by key
                    by_key = query(path, f'SELECT * FROM "{name}" ORDER BY {key}')
                    said[f"{name} by key"] = by_key
    except (sqlite3.DatabaseError, UnicodeDecodeError, MemoryError, OverflowError):
        return None
    return said


def is_intact(path: Path) -> bool:
    """Whether SQLite finds every page in order, those that no query above reads as well."""
    return query(path, "PRAGMA integrity_check") == [("ok",)]


def rot(sound: Path, path: Path, *, flips: int, seed: int) -> Counter[str]:
    """Flip one random bit at a time: what it changed and who noticed."""
    chance, data, said = random.Random(seed), sound.read_bytes(), rows_of(sound)
    found: Counter[str] = Counter()
    for _ in range(flips):
        at = chance.randrange(8 * len(data))
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        path.write_bytes(damaged)
        now, report = rows_of(path), verify(path)
        if now is None or (now == said and not is_intact(path)):
            kind = "refused by SQLite"
        else:
            kind = "changed" if now != said else "unchanged"
        found[kind] += 1
        if report.exit_code:
            found[f"{kind}, reported"] += 1
        if kind == "changed" and not report.exit_code:
            raise AssertionError(f"bit {at} changed what the file says and was not reported")
    return found


def test_f4_a_flipped_bit_is_reported_if_it_changes_anything(sound: Path, tmp_path: Path) -> None:
    found = rot(sound, tmp_path / "ledger.db", flips=100, seed=1)
    assert found["changed"] > 10
    assert found["changed"] == found["changed, reported"]
    assert found["unchanged, reported"] == 0


def test_f4_a_checkpoint_that_claims_another_size_hides_none_behind_it(
    sound: Path, tmp_path: Path
) -> None:
    # One bit makes the first row (1, note) the row (132, NULL), still the first in the file; a
    # verifier that stops there, or asks for the greatest size, has looked at none of the others.
    data, head = bytearray(sound.read_bytes()), bytes.fromhex("823b010400847b") + b"rtc-flower/led"
    at = data.index(head)
    data[at + 2] ^= 0x80
    path = tmp_path / "ledger.db"
    path.write_bytes(data)
    assert query(path, "SELECT * FROM checkpoint")[0] == (132, None)
    assert verify(path).summary.startswith("V1 bad: expected sound tables, got ")


@pytest.mark.slow
def test_f4_a_thousand_flipped_bits(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rot(sound, tmp_path / "ledger.db", flips=1_000, seed=2)
    with capsys.disabled():
        print(
            f"\nF4: 1000 flips: {found['changed']} changed a logical row, "
            f"{found['changed, reported']} of them reported; {found['refused by SQLite']} refused "
            f"by SQLite; {found['unchanged']} changed nothing, "
            f"{found['unchanged, reported']} false alarms"
        )
    assert found["changed"] == found["changed, reported"]
    assert found["unchanged, reported"] == 0


# -- F5: several writers ---------------------------------------------------------------------


def start_writer(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WRITER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_f5_eight_writers_lose_no_ballot_and_give_no_index_twice(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with open_ledger(path, voters=8) as ledger:
        post(ledger, 8, n=50, rule=Rule.ALL)
        start = ledger.replay.size
        seen = (start, ledger.replay.roots[-1])
        for number in range(8):
            ballot = make_ballot(ledger.replay, voter(number), [number % 3] * 50, seen=seen)
            (tmp_path / str(number)).write_bytes(ballot.encode())
    writers = [start_writer(path, tmp_path / str(i), "--retry") for i in range(8)]
    told = [writer.communicate() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8, told
    indices = [json.loads(out)["index"] for out, _ in told]
    assert sorted(indices) == list(range(start, start + 8))
    with Ledger(path, SERVER) as ledger:
        for number, (out, _) in enumerate(told):
            receipt = json.loads(out)
            assert ledger.tally.ballots[voter(number).public] == receipt["index"]
            assert ledger.replay.tree.leaves[receipt["index"]].hex() == receipt["leaf_hash"]
        assert ledger.tally.closed is not None
    assert verify(path).summary == "ok"


def test_f5_the_lock_and_journal_of_a_killed_writer_stand_in_nobodys_way(
    tmp_path: Path, torn: Torn
) -> None:
    folder = Path(shutil.copytree(torn.folder, tmp_path / "run"))
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys, time\nfile = open(sys.argv[1], 'r+')\n"
         "fcntl.flock(file, fcntl.LOCK_EX)\nprint(flush=True)\ntime.sleep(600)",
         str(folder / "ledger.db.lock")],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        writer = start_writer(folder / "ledger.db")
        assert "LedgerLockedError" in writer.communicate()[1]
        assert (folder / "ledger.db-journal").read_bytes() == torn.journal  # left for its owner
        holder.send_signal(signal.SIGKILL)
    assert_recovers(folder, torn.log)


# -- F6: clocks ------------------------------------------------------------------------------

TEN_YEARS = 10 * 365 * 86_400_000
CLOCKS: dict[str, Callable[[], Iterator[int]]] = {
    "right": lambda: iter(range(NOW, NOW + 10**6)),
    "ten years behind": lambda: iter(range(NOW - TEN_YEARS, NOW)),
    "ten years ahead": lambda: iter(range(NOW + TEN_YEARS, NOW + 2 * TEN_YEARS)),
    "backwards": lambda: iter(range(NOW, 0, -86_400_000)),
    "stopped at 0": lambda: iter(lambda: 0, 1),
}


@pytest.mark.parametrize("name", [name for name in CLOCKS if name != "right"])
def test_f6_a_clock_ten_years_off_changes_no_outcome(tmp_path: Path, name: str) -> None:
    outcomes = []
    for clock in ("right", name):
        path = tmp_path / clock / "ledger.db"
        path.parent.mkdir()
        ticks = CLOCKS[clock]()
        with open_ledger(path, voters=5) as ledger:
            ledger._clock = lambda ticks=ticks: next(ticks)  # type: ignore[misc]
            everything(ledger)
        assert verify(path).exit_code == 0
        outcomes.append(query(path, "SELECT * FROM decision WHERE task = 1 ORDER BY sample"))
        outcomes.append(query(path, "SELECT reason, counted, uncounted, absent FROM closing"))
    assert outcomes[:2] == outcomes[2:]


# -- F7: files of every released format ------------------------------------------------------


def frozen() -> list[Path]:
    return sorted(FROZEN.glob("*.db.gz"))


def thaw(packed: Path, folder: Path) -> Path:
    path = folder / "ledger.db"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


@pytest.mark.parametrize("packed", frozen(), ids=lambda packed: packed.name)
def test_f7_a_frozen_ledger_verifies_and_goes_on(tmp_path: Path, packed: Path) -> None:
    path, name = thaw(packed, tmp_path), packed.name.removesuffix(".db.gz")
    note = (FROZEN / f"{name}.checkpoint").read_text()
    facts = json.loads((FROZEN / f"{name}.json").read_text())
    report = verify(path, held=note, ledger_id=bytes.fromhex(facts["ledger_id"]))
    assert report.summary == "ok"
    assert report.steps["V11"].verdict is Verdict.OK
    assert report.checkpoint == note
    assert query(path, "SELECT task, sample, class, support, how FROM decision") == [
        tuple(row) for row in facts["decisions"]
    ]
    kept = KeptReceipt.from_json((FROZEN / f"{name}.receipt").read_text())
    assert kept.check().header.voter == voter(0).public
    (tmp_path / "HEAD").write_text(note)
    with Ledger(path, SigningKey(bytes.fromhex(facts["server_key"]))) as ledger:
        post(ledger, 3)
        cast(ledger, voter(0), [0, 1, 2])
    assert verify(path, held=note).exit_code == 0


def test_f7_there_are_frozen_ledgers() -> None:
    assert {path.name for path in frozen()} >= {"v1-arrival.db.gz", "v1-invitation.db.gz"}


def test_f7_an_unknown_version_cannot_be_said(tmp_path: Path) -> None:
    path = thaw(frozen()[0], tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    report = verify(path)
    assert report.exit_code == 2
    assert {step.verdict for step in report.steps.values()} == {Verdict.NOT_CHECKED}
    with pytest.raises(UnsupportedError, match="a ledger of version 2; this program knows up to 1"):
        Ledger(path, SERVER)


# -- fuzzed ballots --------------------------------------------------------------------------


def signed_rubbish(ledger: Ledger, honest: Ballot, chance: random.Random) -> bytes:
    """A ballot that its voter did sign, wrong in one thing that the header or the votes say."""
    header, votes = honest.header, bytearray(honest.votes)
    fields: dict[str, Any] = {
        "ledger_id": header.ledger_id,
        "task_id": header.task_id,
        "n": header.n,
        "seen": (header.seen_size, header.seen_root),
    }
    match chance.randrange(6):
        case 0:
            fields["ledger_id"] = chance.randbytes(32)
        case 1:
            fields["task_id"] = chance.randbytes(32)
        case 2:
            fields["n"] += chance.choice((-1, 1, 2**31))
        case 3:
            fields["seen"] = (chance.randrange(2**64), header.seen_root)
            if fields["seen"][0] == header.seen_size:
                fields["seen"] = (0, header.seen_root)
        case 4:
            fields["seen"] = (header.seen_size, chance.randbytes(32))
        case _:
            votes[chance.randrange(len(votes))] = chance.choice((3, 100, 0xFE))
    return sign(voter(0), bytes(votes), meta=honest.meta, **fields).encode()


def mutated(payload: bytes, chance: random.Random) -> bytes:
    """``payload`` with bits flipped, cut, lengthened, spliced, or nothing of it."""
    cut = chance.randrange(len(payload))
    match chance.randrange(6):
        case 0:
            data = bytearray(payload)
            for _ in range(chance.choice((1, 1, 1, 2, 8))):
                at = chance.randrange(8 * len(data))
                data[at // 8] ^= 1 << at % 8
            return bytes(data)
        case 1:
            return payload[:cut]
        case 2:
            return payload + chance.randbytes(chance.randrange(1, 60))
        case 3:
            return payload[:cut] + chance.randbytes(len(payload) - cut)
        case 4:
            return payload[cut:] + payload[:cut]
        case _:
            return chance.randbytes(chance.randrange(2 * len(payload)))


def resident() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fuzz(ledger: Ledger, *, ballots: int, seed: int) -> tuple[int, int]:
    """Submit rubbish: how many were taken, and by how many bytes memory grew meanwhile."""
    chance = random.Random(seed)
    honest = make_ballot(ledger.replay, voter(0), [i % 3 for i in range(60)])
    payload, log = honest.encode(), log_of(ledger.path)
    taken, before = 0, 0
    for number in range(ballots):
        if number == ballots // 10:
            before = resident()
        signed = number % 4 == 0
        sent = signed_rubbish(ledger, honest, chance) if signed else mutated(payload, chance)
        if sent == payload:
            continue
        try:
            ledger.submit(sent, voter=voter(0).public)
            taken += 1
        except BallotError:
            pass
    grown = resident() - before
    assert log_of(ledger.path) == log
    ledger.submit(payload, voter=voter(0).public)  # the real one is still welcome
    return taken, grown


def test_fuzzed_ballots_are_refused(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger:
        post(ledger, 3, n=60)
        taken, grown = fuzz(ledger, ballots=2_000, seed=3)
    assert taken == 0
    assert grown < 10 * 2**20


@pytest.mark.slow
def test_a_hundred_thousand_fuzzed_ballots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_ledger(tmp_path / "ledger.db") as ledger:
        post(ledger, 3, n=60)
        taken, grown = fuzz(ledger, ballots=100_000, seed=4)
    with capsys.disabled():
        print(f"\nfuzz: 100000 ballots, {taken} accepted, memory grew by {grown / 2**20:.2f} MiB")
    assert taken == 0
    assert grown < 10 * 2**20


# -- the page that names these tests ---------------------------------------------------------


def test_every_test_that_the_threats_page_names_exists() -> None:
    page = (HERE.parent / "docs" / "threats.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", page)
    assert set(re.findall(r"^\| ([NSF]\d+) \|", page, re.M)) == {
        *(f"N{i}" for i in range(1, 11)), *(f"S{i}" for i in range(1, 10)),
        *(f"F{i}" for i in range(1, 8)),
    }  # fmt: skip
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (HERE / file).exists() or f"def {name}(" not in (HERE / file).read_text()
    ]
    assert missing == []
