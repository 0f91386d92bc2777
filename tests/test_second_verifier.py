from __future__ import annotations

import ast
import json
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any

import make_vectors
import pytest
import second_verifier
import vector_drafts

from rtc_flower.receipts import check_receipts
from rtc_flower.verify import Report, verify

MANIFEST: list[dict[str, Any]] = json.loads((vector_drafts.VECTORS / "manifest.json").read_text())
SPECIFICATION = Path(__file__).parent.parent / "docs" / "spec.md"
RULE = re.compile(r"rule (R\d+)")


def content(line: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((vector_drafts.VECTORS / line["file"]).read_text())
    return loaded


def ours(path: Path, line: dict[str, Any]) -> Report:
    expected = line.get("ledger_id")
    ledger_id = None if expected is None else bytes.fromhex(expected)
    report = verify(path, held=line.get("held"), ledger_id=ledger_id)
    check_receipts(report, path, {"held": line["receipt"]} if "receipt" in line else {})
    return report


def theirs(path: Path, line: dict[str, Any]) -> second_verifier.Verdicts:
    brought = {name: line.get(name) for name in ("held", "ledger_id")}
    receipts = [line["receipt"]] if "receipt" in line else []
    return second_verifier.verify(path, receipts=receipts, **brought)


def check_package(path: Path, line: dict[str, Any]) -> None:
    """The package's verdict, its bad step and the rule are those of the manifest."""
    report = ours(path, line)
    assert report.exit_code == line["exit"], report.summary
    if line["exit"] != 1:
        return
    step = report.steps[line["step"]]
    assert step.verdict.value == "bad", report.summary
    if line["step"] == "V4":
        named = RULE.search(step.detail)
        assert named is not None
        assert named[1] == line["rule"]


@pytest.mark.parametrize("line", MANIFEST, ids=lambda line: str(line["name"]))
def test_second_verifier_agrees_with_the_manifest(line: dict[str, Any], tmp_path: Path) -> None:
    found = theirs(vector_drafts.build(tmp_path / "ledger.db", content(line)), line)
    assert found.exit_code == line["exit"], found.details
    if line["exit"] == 1:
        assert found.steps[line["step"]] == "bad", found.details
        assert line.get("rule") == found.rule


@pytest.mark.parametrize("line", MANIFEST, ids=lambda line: str(line["name"]))
def test_package_agrees_with_the_manifest(
    line: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "pending" in line:  # what the package does not get right yet
        request.applymarker(pytest.mark.xfail(reason=line["pending"], strict=True))
    check_package(vector_drafts.build(tmp_path / "ledger.db", content(line)), line)


@pytest.mark.parametrize("line", MANIFEST, ids=lambda line: str(line["name"]))
def test_both_say_the_same_of_every_step(line: dict[str, Any], tmp_path: Path) -> None:
    path = vector_drafts.build(tmp_path / "ledger.db", content(line))
    mine = {number: step.verdict.value for number, step in ours(path, line).steps.items()}
    assert mine == theirs(path, line).steps


def test_every_rule_and_step_has_a_failing_vector() -> None:
    broken = {line.get(key) for line in MANIFEST for key in ("step", "rule")}
    wanted = {f"V{i}" for i in range(1, 14)} | {f"R{i}" for i in range(16)}
    assert wanted <= broken


@pytest.mark.parametrize("words", [b"", b"SQLite format 3\x00", b"no ledger" * 100])
def test_both_call_a_file_that_is_no_ledger_bad(words: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(words)
    assert (verify(path).exit_code, second_verifier.verify(path).exit_code) == (1, 1)


@pytest.mark.parametrize("change", [-5000, -4096, -100, -1, 1, 100, 4096, 5000])
def test_both_call_a_file_that_is_not_its_pages_bad(change: int, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    good = base("certain-arrival")
    path.write_bytes(good + bytes(change) if change > 0 else good[:change])
    report, verdicts = verify(path), second_verifier.verify(path)
    assert (report.exit_code, verdicts.exit_code) == (1, 1)
    assert "V1 bad" in report.summary


def test_both_wait_for_a_writer_before_they_count_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(base("certain-arrival"))
    writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("INSERT INTO checkpoint VALUES (99999, ?)", ("x" * 100_000,))
    ending = threading.Timer(1.0, writer.rollback)
    ending.start()
    found = verify(path).exit_code, second_verifier.verify(path).exit_code
    ending.join()
    writer.close()
    assert found == (0, 0)


def test_second_verifier_imports_neither_the_package_nor_numpy() -> None:
    tree = ast.parse(Path(second_verifier.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
             for alias in node.names}  # fmt: skip
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.partition(".")[0] for name in names}
    assert roots - set(sys.stdlib_module_names) == {"cryptography"}


@pytest.mark.parametrize(
    ("name", "code"),
    [("held", 0), ("receipt", 0), ("V13-proof", 1), ("V5", 1), ("unknown-type", 2)],
)
def test_command_line(name: str, code: int, tmp_path: Path) -> None:
    line = next(line for line in MANIFEST if line["name"] == name)
    path = vector_drafts.build(tmp_path / "ledger.db", content(line))
    command = [sys.executable, second_verifier.__file__, str(path)]
    for option in ("held", "receipt"):
        if option in line:
            (tmp_path / option).write_text(line[option])
            command += [f"--{option}", str(tmp_path / option)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")
    assert ("V11  ok" in done.stdout) == ("held" in line)
    assert ("V13  not checked" in done.stdout) == ("receipt" not in line)


def test_both_say_that_a_locked_ledger_is_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = next(line for line in MANIFEST if line["name"] == "held")
    path = vector_drafts.build(tmp_path / "ledger.db", content(line))
    monkeypatch.setattr("rtc_flower.files._BUSY_SECONDS", 0.0)
    monkeypatch.setattr(second_verifier, "BUSY_SECONDS", 0.0)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    verdicts = verify(path).exit_code, second_verifier.verify(path).exit_code
    writer.close()
    assert verdicts == (2, 2)


def test_specification_shows_the_schema_that_the_vectors_use() -> None:
    shown = SPECIFICATION.read_text().partition("```sql\n")[2].partition("```")[0]
    assert shown == (vector_drafts.VECTORS / "schema.sql").read_text()


@pytest.mark.slow
def test_the_vectors_are_those_that_their_script_writes(tmp_path: Path) -> None:
    make_vectors.write(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.glob("*.json")}
    kept = {path.name: path.read_bytes() for path in vector_drafts.VECTORS.glob("*.json")}
    assert written == kept
    assert len(kept) == len(MANIFEST) + 1


# -- mutated ledgers --------------------------------------------------------------------------

BASES = (
    "certain-arrival", "absent-late", "waves", "abort", "certified", "rotated", "evidence",
    "no-blocks",
)  # fmt: skip
_GEOMETRY = (57, 63)  # n and k in a TASK leaf: large ones cost both verifiers gigabytes


@cache
def base(name: str) -> bytes:
    """The SQLite file of a good vector."""
    line = next(line for line in MANIFEST if line["name"] == name)
    with tempfile.TemporaryDirectory() as folder:
        return vector_drafts.build(Path(folder) / "ledger.db", content(line)).read_bytes()


def flip(value: Any, rng: random.Random) -> Any:
    """Another value of the same type, one bit or one step away."""
    if value is None:
        return 0
    if isinstance(value, int):
        return value + rng.choice((-1, 1))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return value[:at] + rng.choice("aZ9 /+\n") + value[at + rng.randrange(2) :]
    if not value:
        return b"\x00"
    at = rng.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << rng.randrange(8)]) + value[at + 1 :]


def mutate(db: sqlite3.Connection, rng: random.Random) -> str:
    """Change one thing in an open ledger; says what."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    table = rng.choice(["entry", "entry", "entry", "block", "checkpoint", *tables])
    rows = db.execute(f'SELECT rowid, * FROM "{table}"').fetchall()
    if not rows:
        return f"{table}: empty"
    columns = [column[1] for column in db.execute(f'PRAGMA table_info("{table}")')]
    row = rng.choice(rows)
    kind = rng.choice(("value", "value", "value", "delete", "swap", "insert"))
    if kind == "delete":
        db.execute(f'DELETE FROM "{table}" WHERE rowid = ?', row[:1])
    elif kind == "insert":
        key = rng.choice((-(2**63), -1, 0, row[1] - 1, row[1] + 1, 2**63 - 1))
        marks = ", ".join("?" * len(columns))
        db.execute(f'INSERT OR REPLACE INTO "{table}" VALUES ({marks})', (key, *row[2:]))
    elif kind == "swap":
        other = rng.choice(rows)
        place = rng.randrange(len(columns))
        column = columns[-1] if table == "entry" else columns[place]
        for one, two in ((row, other), (other, row)):
            value = two[1 + columns.index(column)]
            db.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ? WHERE rowid = ?',
                       (value, one[0]))  # fmt: skip
    else:
        place = 1 if table == "entry" and rng.random() < 0.95 else rng.randrange(len(columns))
        value = flip(row[1 + place], rng)
        if table == "entry" and place == 1 and row[2][16] == 3:
            low, high = _GEOMETRY
            value = value[:low] + row[2][low:high] + value[high:]
        db.execute(f'UPDATE OR REPLACE "{table}" SET "{columns[place]}" = ? WHERE rowid = ?',
                   (value, row[0]))  # fmt: skip
    return f"{table}: {kind} in row {row[0]}"


def agree(path: Path, rng: random.Random) -> tuple[str, int]:
    """Mutate a good ledger and compare the two verdicts; what was done and the verdict."""
    name = rng.choice(BASES)
    path.write_bytes(base(name))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    done = f"{name}: {mutate(db, rng)}"
    db.close()
    first, second = verify(path), second_verifier.verify(path)
    assert first.exit_code == second.exit_code, (done, first.summary, second.details)
    return done, second.exit_code


@pytest.mark.parametrize("seed", range(10))
def test_both_verifiers_agree_on_mutated_ledgers(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    verdicts = [agree(tmp_path / "ledger.db", rng)[1] for _ in range(30)]
    assert verdicts.count(1) > 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 110))
def test_both_verifiers_agree_on_ten_thousand_mutated_ledgers(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    verdicts = [agree(tmp_path / "ledger.db", rng)[1] for _ in range(1000)]
    assert verdicts.count(1) > 500
