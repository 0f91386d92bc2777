"""Every check of the package's verifier is needed: without it a vector's verdict changes.

``python tests/test_mutations.py`` prints which vector catches the removal of which check.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import failing_vectors
import pytest
import vector_drafts
from checks import Check, all_checks, load, named
from ledgers import consistency_proof, inclusion_proof, tree_root
from test_second_verifier import MANIFEST, RULE, content
from vector_drafts import ZEROS

from rtc_flower.merkle import leaf_hash

# Checks behind which another one stands that refuses the same bytes: the vector passes only
# without both. Each is removed together with those named.
BACKED = {
    "encoding.Reader.take#0": ("encoding.Reader.end#0", "entries.decode_leaf#0"),
    "encoding.Reader.expect#0": ("entries.decode_leaf#0",),
    "entries.decode_leaf#0": ("encoding.Reader.expect#0",),
    "checkpoint.Checkpoint.parse#0": ("checkpoint.Checkpoint.parse#2",),
    "encoding.decompress#0": ("encoding.decompress#1",),
    "receipts.KeptReceipt.check_in~entries": ("receipts.KeptReceipt.check_in~found another",),
    "receipts.KeptReceipt.check_in~another ledger": (
        "receipts.KeptReceipt.check_in~found another",
    ),
}

# Checks that no file can reach: an earlier one decides, or only writers call them with such values.
UNREACHABLE = {
    "encoding.unpack_bits#0": "the reader takes exactly the bytes that the bitmap needs",
    "keys.check_public_key#0": "the reader takes exactly 32 bytes",
    "tasks.check_parameters~rule must be one": "an unknown rule is unsupported before",
}


def backed() -> dict[str, tuple[str, ...]]:
    """`BACKED` by the checks' ids."""
    return {named(name).name: others for name, others in BACKED.items()}


def unreachable() -> dict[str, str]:
    """`UNREACHABLE` by the checks' ids."""
    return {named(name).name: why for name, why in UNREACHABLE.items()}


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], Path]]:
    return written(tmp_path_factory.mktemp("ledgers"))


def written(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """All vectors as files, those that the package must get right."""
    lines = [line for line in MANIFEST if "pending" not in line]
    made = [
        (line, vector_drafts.build(folder / f"{line['name']}.db", content(line))) for line in lines
    ]
    large = failing_vectors.too_many_voters()
    path = vector_drafts.build(folder / "too-many.db", large.content())
    rubbish = folder / "rubbish.db"
    rubbish.write_bytes(b"no ledger")
    made += [(line, path) for line in merkle_proofs()]
    receipt = next(line for line in lines if line["name"] == "receipt")
    made += [(line, folder / "receipt.db") for line in unread_receipts(receipt)]
    made.append((large.line(), path))
    made.append(({"name": "rubbish", "exit": 1, "step": "V1"}, rubbish))
    return made


def merkle_proofs() -> list[dict[str, Any]]:
    """Calls of the two functions that check a Merkle proof, each wrong in one thing."""
    hashes = [leaf_hash(bytes([i])) for i in range(7)]
    roots = [tree_root(hashes[:size]) for size in range(8)]
    one, proof = hashes[0], consistency_proof(hashes, 3)

    def above(left: bytes, right: bytes) -> bytes:
        return sha256(b"\x01" + left + right).digest()

    def included(at: int, size: int, root: bytes, path: list[bytes]) -> tuple[str, dict[str, Any]]:
        return "inclusion", {"leaf": one, "index": at, "size": size, "root": root, "proof": path}

    def continued(
        sizes: tuple[int, int], old: bytes, new: bytes, path: list[bytes]
    ) -> tuple[str, dict[str, Any]]:
        old_size, new_size = sizes
        return "consistency", {"old_size": old_size, "new_size": new_size, "old_root": old,
                               "new_root": new, "proof": path}  # fmt: skip

    calls = {
        "good": included(0, 7, roots[7], inclusion_proof(hashes, 0)),
        "behind the end": included(1, 1, one, []),
        "too long": included(0, 1, above(ZEROS, one), [ZEROS]),
        "another root": included(0, 7, roots[6], inclusion_proof(hashes, 0)),
        "too short": included(0, 2, one, []),
        "good, from 3 to 7": continued((3, 7), roots[3], roots[7], proof),
        "good, from none": continued((0, 7), roots[0], roots[7], []),
        "shrunk": continued((4, 3), one, one, []),
        "two roots of one size": continued((3, 3), roots[3], roots[4], []),
        "another empty root": continued((0, 7), ZEROS, roots[7], []),
        "no proof": continued((3, 7), roots[3], roots[7], []),
        "above the root": continued((3, 7), above(ZEROS, roots[3]), above(ZEROS, roots[7]),
                                    [*proof, ZEROS]),
        "another old root": continued((3, 7), roots[2], roots[7], proof),
        "another new root": continued((3, 7), roots[3], roots[6], proof),
    }  # fmt: skip
    steps = {"inclusion": "V13", "consistency": "V11"}
    return [
        {"name": f"{kind}: {name}", "exit": int("good" not in name), "step": steps[kind],
         "merkle": (f"verify_{kind}", arguments)}
        for name, (kind, arguments) in calls.items()
    ]  # fmt: skip


def unread_receipts(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Receipts that cannot even be read."""
    fields = json.loads(good["receipt"])
    changes = {
        "no JSON": None,
        "another file": {"format": "rtc-flower proof of two histories 1"},
        "a further field": {"more": 1},
        "not hexadecimal": {"genesis": "x"},
        "an index of 65 bits": {"index": 2**64},
        "a time of 65 bits": {"time_ms": 2**64},
    }
    for name, change in changes.items():
        text = "no JSON" if change is None else json.dumps(fields | change)
        yield {"name": f"receipt: {name}", "exit": 1, "step": "V13", "receipt": text}


def tried(call: Callable[[], object], step: str) -> tuple[int, str]:
    """What a call says that raises `FormatError` where the file is bad."""
    try:
        call()
    except Exception as error:
        kind = type(error).__name__  # not the class: a mutant has its own
        return (1, step) if kind == "FormatError" else (3, f"raises {kind}")
    return 0, ""


def judged(package: SimpleNamespace, line: dict[str, Any], path: Path) -> tuple[int, str]:
    """Exit code and what was found bad first: the step, or the rule of V4."""
    if "merkle" in line:
        name, arguments = line["merkle"]
        return tried(lambda: getattr(package.merkle, name)(**arguments), line["step"])
    expected = line.get("ledger_id")
    ledger_id = None if expected is None else bytes.fromhex(expected)
    try:
        report = package.verify.verify(path, held=line.get("held"), ledger_id=ledger_id)
        if "receipt" in line:
            package.receipts.check_receipts(report, path, {"held": line["receipt"]})
    except Exception as error:  # a mutant may fail in any way
        return 3, f"raises {type(error).__name__}"
    if report.exit_code != 1:
        return report.exit_code, ""
    step = report.steps.get(line.get("step", ""))
    if step is None or step.verdict.value != "bad":
        return 1, next(n for n, s in report.steps.items() if s.verdict.value == "bad")
    named = RULE.search(step.detail)
    return 1, str(named[1]) if step.number == "V4" and named else step.number


def wanted(line: dict[str, Any]) -> tuple[int, str]:
    """What `judged` says of an intact package."""
    if line["exit"] != 1:
        return line["exit"], ""
    return 1, str(line["rule"] if line["step"] == "V4" else line["step"])


def caught(
    check: Check, ledgers: list[tuple[dict[str, Any], Path]]
) -> Iterator[tuple[str, tuple[int, str]]]:
    """Vectors whose verdict the removal changes, those for this check's rule or step first."""
    package = load(check.name, *backed().get(check.name, ()))
    near = sorted(ledgers, key=lambda made: check.number not in wanted_words(made[0]))
    for line, path in near:
        verdict = judged(package, line, path)
        if verdict != wanted(line):
            yield str(line["name"]), verdict


def wanted_words(line: dict[str, Any]) -> tuple[Any, ...]:
    """Step and rule that a vector breaks."""
    return line.get("step"), line.get("rule")


def test_the_intact_package_agrees_with_every_vector(
    ledgers: list[tuple[dict[str, Any], Path]],
) -> None:
    package = load()
    assert [(n["name"], judged(package, n, p)) for n, p in ledgers] == [
        (n["name"], wanted(n)) for n, _ in ledgers
    ]


def test_every_rule_and_step_has_a_check() -> None:
    numbers = {check.number for check in all_checks()}
    assert "V5" in numbers  # check_signatures is one check for V5 and V6
    assert {f"V{i}" for i in range(1, 14)} | {f"R{i}" for i in range(16)} <= numbers | {"V6"}


@pytest.mark.slow
@pytest.mark.parametrize("check", all_checks(), ids=lambda check: f"{check.number}-{check.name}")
def test_no_check_can_be_removed(check: Check, ledgers: list[tuple[dict[str, Any], Path]]) -> None:
    if check.name in unreachable():
        assert list(caught(check, ledgers)) == []
        return
    found = next(caught(check, ledgers), None)
    assert found is not None, (
        f"{check.number} {check.name} (line {check.line}) can be removed unnoticed"
    )


def best(
    found: Iterator[tuple[str, tuple[int, str]]],
) -> tuple[str, tuple[int, str]] | None:
    """A vector that passes wrongly, or else the first of the next ten that differ."""
    first = None
    for change in islice(found, 10):
        if change[1][0] == 0:
            return change
        first = first or change
    return first


def main() -> int:
    """Print the table."""
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        ledgers = written(Path(folder))
        for check in sorted(all_checks(), key=lambda c: (c.number[0], int(c.number[1:]), c.name)):
            near = [made for made in ledgers if check.number in wanted_words(made[0])]
            found = best(caught(check, near)) or best(caught(check, ledgers))
            words = "UNNOTICED"
            if check.name in unreachable():
                words = f"unreachable: {unreachable()[check.name]}"
            elif found:
                name, (code, detail) = found
                result = {0: "passes", 1: f"bad: {detail}", 2: "not checked", 3: detail}[code]
                words = f"{name} ({result})"
                words += " with its backup" if check.name in backed() else ""
            unnoticed += words == "UNNOTICED"
            print(f"{check.number:4} {check.name:45} {words}", flush=True)
    print(f"{unnoticed} of {len(all_checks())} checks can be removed unnoticed")
    return min(unnoticed, 1)


if __name__ == "__main__":
    sys.exit(main())
