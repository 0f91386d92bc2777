"""F1: a writer that is killed, or whose disk fails, at any system call of an append.

strace counts the calls of a real writer process on the ledger's files and makes the n-th of them
fail or the process die there. Afterwards the log is the one before the append or the one after
it, every receipt that was printed still holds, and the next writer finishes the vote.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW, SERVER, cast, log_of, make_ballot, open_ledger, post, voter

from rtc_flower.checkpoint import Checkpoint
from rtc_flower.ledger import Ledger
from rtc_flower.merkle import verify_inclusion
from rtc_flower.verify import verify

WRITER = Path(__file__).parent / "fault_writer.py"
CALLS = ("openat", "pwrite64", "write", "fsync", "fdatasync", "unlink", "ftruncate", "rename")
RECOVERY = ("openat", "pread64", "pwrite64", "fdatasync", "unlink")
"""What a second writer does while it rolls a journal back."""
FAULTS = {
    "kill": "signal=KILL:when={}",
    "eio": "error=EIO:when={}",
    "enospc": "error=ENOSPC:when={}+",  # a full disk stays full, for the rollback too
}
N = 300


def strace_reason() -> str | None:
    """Why strace cannot run here, None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed (tests/strace_append.sh installs it)"
    try:
        probe = subprocess.run(
            ["strace", "-qq", "-e", "inject=getppid:signal=KILL", "true"], capture_output=True
        )
    except OSError as error:
        return f"strace cannot be run: {error}"
    return None if probe.returncode == 0 else f"strace may not trace here: {probe.stderr.decode()}"


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """Skip visibly where strace cannot run; in CI that is a failure."""
    reason = strace_reason()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True)
class Scene:
    """A ledger with one of four ballots in it, and the log that it must come to.

    Attributes
    ----------
    base : Path
        Folder of the ledger, its HEAD, and ballots 1 to 3.
    states : list of list of bytes
        Every log that may be on disk: as it was, and after each ballot.
    """

    base: Path
    states: list[list[bytes]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    base = tmp_path_factory.mktemp("crash") / "base"
    base.mkdir()
    with open_ledger(base / "ledger.db", voters=4) as ledger:
        ledger._clock = lambda: NOW
        post(ledger, 4, n=N)
        seen = (ledger.replay.size, ledger.replay.roots[-1])
        cast(ledger, voter(0), [0] * N)
        for number in range(1, 4):
            ballot = make_ballot(ledger.replay, voter(number), [number % 2] * N, seen=seen)
            (base / f"{number}.ballot").write_bytes(ballot.encode())
    whole = copy(base, tmp_path_factory.mktemp("crash") / "whole")
    states = [log_of(whole / "ledger.db")]
    with Ledger(whole / "ledger.db", SERVER, clock=lambda: NOW) as ledger:
        for number in range(1, 4):
            payload = (base / f"{number}.ballot").read_bytes()
            ledger.submit(payload, voter=voter(number).public)
            states.append(log_of(whole / "ledger.db"))
        assert ledger.tally.closed is not None
    assert len(states[-1]) == len(states[0]) + 4  # the last ballot brings CLOSE with it
    return Scene(base, states)


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


@dataclass
class Run:
    """What became of one writer."""

    code: int
    acknowledged: list[dict[str, Any]]
    calls: list[str]

    @property
    def killed(self) -> bool:
        return self.code in (-9, 137)

    @property
    def in_recovery(self) -> bool:
        """Whether it had opened the journal to roll it back, and had not removed it yet."""
        journal = [line for line in self.calls if "ledger.db-journal" in line]
        opened = any("openat" in line and "O_RDWR" in line for line in journal)
        return opened and not self.recovered

    @property
    def recovered(self) -> bool:
        return any("unlink" in line and line.endswith("= 0") for line in self.calls)


def run(folder: Path, call: str, inject: str = "", *, also: Sequence[str] = ()) -> Run:
    """Let a writer submit two ballots in ``folder`` under strace, which traces ``also`` as well."""
    trace = folder / "trace"
    ledger = folder / "ledger.db"
    # Of the many files that an interpreter opens and reads, only the ledger's count.
    files = [ledger, folder / "ledger.db-journal", folder / "ledger.db.lock", folder / "HEAD"]
    only = [part for file in (*files, folder) for part in ("-P", str(file))]
    traced = {call, *also}
    here = only if traced & {"openat", "pread64"} else []
    command = ["strace", "-qq", "-o", str(trace), "-e", f"trace={','.join(traced)}", *here]
    if inject:
        command += ["-e", f"inject={call}:{inject}"]
    sent = [str(folder / f"{number}.ballot") for number in (1, 2)]
    done = subprocess.run(
        [*command, sys.executable, str(WRITER), str(ledger), *sent],
        capture_output=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in trace.read_text().splitlines() if not line.startswith(("+", "-"))]
    return Run(done.returncode, [json.loads(line) for line in done.stdout.splitlines()], lines)


def check(scene: Scene, folder: Path, acknowledged: Sequence[dict[str, Any]]) -> None:
    """The state is before or after, every receipt holds, and the vote goes on."""
    path = folder / "ledger.db"
    with Ledger(path, SERVER, clock=lambda: NOW) as ledger:
        log = log_of(path)
        assert log in scene.states
        for receipt in acknowledged:
            leaf, proof = bytes.fromhex(receipt["leaf_hash"]), map(bytes.fromhex, receipt["proof"])
            stated = Checkpoint.verify(receipt["checkpoint"], SERVER.public)
            verify_inclusion(
                leaf, receipt["index"], size=stated.size, root=stated.root, proof=list(proof)
            )
            assert ledger.replay.tree.leaves[receipt["index"]] == leaf
            assert ledger.replay.roots[stated.size] == stated.root
        assert (folder / "HEAD").read_text() == ledger.checkpoint
        assert verify(path, held=ledger.checkpoint).summary == "ok"
        for number in range(1, 4):
            payload = (folder / f"{number}.ballot").read_bytes()
            ledger.submit(payload, voter=voter(number).public)
    assert log_of(path) == scene.states[-1]
    assert not (folder / "ledger.db-journal").exists()
    assert verify(path).summary == "ok"


@dataclass
class Figures:
    """What the suite prints."""

    hit: Counter[str] = field(default_factory=Counter)
    in_commit: int = 0
    in_recovery: int = 0
    acknowledged: int = 0

    def __str__(self) -> str:
        calls = ", ".join(f"{name} {count}" for name, count in sorted(self.hit.items()))
        return (
            f"syscalls hit: {sum(self.hit.values())} ({calls}); kills inside commit: "
            f"{self.in_commit}, inside recovery: {self.in_recovery}; "
            f"acknowledged ballots: {self.acknowledged}, lost: 0"
        )


def strike(scene: Scene, folder: Path, figures: Figures, call: str, fault: str, number: int) -> Run:
    """Let the ``number``-th ``call`` meet ``fault``; check what it left."""
    copy(scene.base, folder)
    before = (folder / "ledger.db").read_bytes()
    done = run(folder, call, FAULTS[fault].format(number))
    assert len(done.calls) >= number, "the call that should have failed was never made"
    assert done.killed == (fault == "kill")
    figures.hit[call] += 1
    figures.acknowledged += len(done.acknowledged)
    # A commit is under way from the first page written into the database to the journal's end.
    written = (folder / "ledger.db").read_bytes() != before
    if fault == "kill" and written and (folder / "ledger.db-journal").exists():
        figures.in_commit += 1
        copy(folder, folder.with_name("hot"))
    check(scene, folder, done.acknowledged)
    return done


def strike_again(
    scene: Scene, folder: Path, hot: Path, figures: Figures, call: str, number: int
) -> Run:
    """Kill the next writer at its ``number``-th ``call``, while it rolls ``hot``'s journal back."""
    copy(hot, folder)
    done = run(folder, call, FAULTS["kill"].format(number), also=("openat", "unlink"))
    assert done.killed
    figures.hit[call] += 1
    figures.in_recovery += done.in_recovery
    check(scene, folder, done.acknowledged)
    return done


def counts(scene: Scene, folder: Path, calls: Sequence[str], *, source: Path) -> dict[str, int]:
    """How often a writer that nothing disturbs makes each call."""
    found = {}
    for call in calls:
        copy(source, folder)
        done = run(folder, call)
        assert done.code == 0
        assert len(done.acknowledged) == 2
        found[call] = len(done.calls)
    return found


@pytest.mark.parametrize(
    ("call", "fault", "number"),
    [
        ("pwrite64", "kill", 3),
        ("pwrite64", "enospc", 8),
        ("fdatasync", "kill", 1),
        ("fdatasync", "eio", 3),
        ("unlink", "kill", 1),
        ("unlink", "eio", 2),
        ("rename", "kill", 1),
        ("write", "enospc", 2),
    ],
)
def test_f1_a_failure_inside_an_append_loses_nothing(
    scene: Scene, tmp_path: Path, call: str, fault: str, number: int
) -> None:
    strike(scene, tmp_path / "run", Figures(), call, fault, number)


def test_f1_the_commit_is_on_disk_before_its_receipt_is_printed(
    scene: Scene, tmp_path: Path
) -> None:
    folder = copy(scene.base, tmp_path / "run")
    done = run(folder, "fdatasync", also=("unlink", "write"))
    order = [line.partition("(")[0].split()[-1] for line in done.calls]
    ends = [i for i, line in enumerate(done.calls) if line.startswith('unlink("')]
    told = [i for i, line in enumerate(done.calls) if line.startswith("write(1, ")]
    assert len(ends) == len(told) == 2
    for end, ack in zip(ends, told, strict=True):
        assert "fdatasync" in order[end:ack]  # the folder, in which the journal is no more
        # Journal, its folder, the journal's count of pages, and the database come first.
        assert order[max(0, end - 4) : end] == ["fdatasync"] * 4


def hot_journals(scene: Scene, folder: Path, figures: Figures) -> Iterator[Path]:
    """Folders in which a writer was killed just before its journal's end."""
    for number in (1, 2):
        strike(scene, folder, figures, "unlink", "kill", number)
        yield copy(folder.with_name("hot"), folder.with_name(f"hot-{number}"))


def test_f1_a_second_kill_while_the_journal_is_rolled_back(scene: Scene, tmp_path: Path) -> None:
    figures = Figures()
    hot = next(hot_journals(scene, tmp_path / "run", figures))
    assert figures.in_commit == 1
    for call, number in (("pwrite64", 2), ("fdatasync", 1), ("unlink", 1)):
        strike_again(scene, tmp_path / "run", hot, figures, call, number)
    assert figures.in_recovery == 3


@pytest.mark.slow
def test_f1_every_system_call_of_an_append(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, folder = Figures(), tmp_path / "run"
    for call, most in counts(scene, folder, CALLS, source=scene.base).items():
        for fault in FAULTS:
            for number in range(1, most + 1):
                strike(scene, folder, figures, call, fault, number)
    for hot in hot_journals(scene, folder, figures):
        for call, most in counts(scene, folder, RECOVERY, source=hot).items():
            for number in range(1, most + 1):
                if strike_again(scene, folder, hot, figures, call, number).recovered:
                    break
    with capsys.disabled():
        print(f"\nF1: {figures}")
    assert figures.in_commit >= 10
    assert figures.in_recovery >= 10
    assert figures.acknowledged >= 100
