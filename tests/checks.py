"""The verifier's checks, found in its source, and the package without some of them.

A check is a ``raise`` of the package's errors or a ``bad`` call on the way from a file to a
verdict. Its id is ``module.function#ordinal``, or ``module.function~words`` of its
message. `load` imports a private copy of the package in
which the branch that holds a check does nothing: vectors that break one rule are written with it,
and the mutation test shows that each check is missed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import rtc_flower

ROOT = Path(rtc_flower.__file__).parent
MODULES = (
    "encoding", "keys", "merkle", "entries", "ballot", "checkpoint", "roster", "samples",
    "rules", "tasks", "tally", "forks", "consensus", "schema", "files", "signatures", "verify",
    "textfiles", "wire", "receipts",
)  # fmt: skip

# What a check without a number of its own belongs to. Functions that only writers call, or that
# only a bug can make raise, are left out.
NUMBERS = {
    "encoding.Reader.": "R0",
    "encoding.unpack_bits": "R0",
    "encoding.pack_text": "R0",
    "entries.decode_leaf": "R0",
    "ballot.Ballot.read": "R0",
    "roster.Roster.check_follows": "R2",
    "keys.check_public_key": "R2",
    "rules.StopRule.check": "R4",
    "rules.check_range": "R4",
    "tasks.check_parameters": "R4",
    "encoding.VoteCodec.decode": "R8",
    "keys.check_signature": "V5",
    "checkpoint.Checkpoint.check_cosignature": "V12",
    "checkpoint.": "V7",
    "signatures.check_signatures": "V5",
    "encoding.decompress": "V10",
    "samples.Samples.decode": "V10",
    "samples._read_features": "V10",
    "receipts.KeptReceipt.": "V13",
    "merkle.verify_inclusion": "V13",
    "merkle.verify_consistency": "V11",
    "textfiles.read_fields": "V13",
    "merkle._climb": "V13",
    "wire.read_leaf": "V13",
    "files._check_identity": "V1",
    "files.snapshot": "V1",
    "verify._Verifier._samples": "V10",
    "verify._Verifier._checkpoints": "V7",
    "verify._Verifier._cosignatures": "V12",
    "verify._Verifier._held": "V11",
}
_BALLOT = {
    "CONTEXT": "R6", "DUPLICATE": "R7", "FORMAT": "R8", "CLASS": "R8", "NOT_ASKED": "R8",
    "SEEN": "R9",
}  # fmt: skip
_SKIPPED = {"RuntimeError", "UnsupportedError", "ValueError"}


@dataclass(frozen=True)
class Check:
    """One check: where it stands and the rule or step it is for."""

    name: str
    number: str
    line: int
    text: str

    @property
    def module(self) -> str:
        return self.name.partition(".")[0]


def _branches(node: ast.AST, inside: str) -> Iterator[tuple[str, list[ast.stmt], int]]:
    """Every statement with the function it is in and the list that holds it."""
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for place, child in enumerate(getattr(node, field, ())):
            name = inside
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{inside}.{child.name}"
            elif isinstance(child, ast.stmt):
                yield inside, getattr(node, field), place
            yield from _branches(child, name)


def _number(statement: ast.stmt, function: str) -> str | None:
    """Rule or step of ``statement``, None if it is no check."""
    if isinstance(statement, ast.Raise) and isinstance(statement.exc, ast.Call):
        call = statement.exc
        error = ast.unparse(call.func).rpartition(".")[2]
        if error in _SKIPPED or not error.endswith("Error"):
            return None
        if error == "ReplayError":
            first = call.args[0]
            return str(first.value) if isinstance(first, ast.Constant) else "R5"
        if error == "BallotError":
            return _BALLOT[ast.unparse(call.args[0]).rpartition(".")[2]]
        return next((n for start, n in NUMBERS.items() if function.startswith(start)), None)
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        call = statement.value
        function = ast.unparse(call.func)
        if function == "_expect" or function.endswith("report.bad"):
            first = call.args[0]
            return str(first.value) if isinstance(first, ast.Constant) else "V5"
    return None


def _checks(tree: ast.Module, module: str) -> Iterator[tuple[Check, list[ast.stmt], int]]:
    seen: dict[str, int] = {}
    for function, body, place in list(_branches(tree, module)):
        number = _number(body[place], function)
        if number is None:
            continue
        ordinal = seen[function] = seen.get(function, -1) + 1
        yield (
            Check(f"{function}#{ordinal}", number, body[place].lineno, ast.unparse(body[place])),
            body,
            place,
        )


def _parse(module: str) -> ast.Module:
    return ast.parse((ROOT / f"{module}.py").read_text())


@cache
def all_checks() -> tuple[Check, ...]:
    """Every check on the way from a file to a verdict."""
    return tuple(check for m in MODULES for check, _, _ in _checks(_parse(m), m))


def named(name: str) -> Check:
    """The one check that an id or words of its message name."""
    function, _, words = name.partition("~")
    found = [
        check
        for check in all_checks()
        if check.name == name
        or (words and check.name.partition("#")[0] == function and words in check.text)
    ]
    if len(found) != 1:
        raise ValueError(f"expected one check {name!r}, found {[check.name for check in found]}")
    return found[0]


def _without(module: str, names: Sequence[str]) -> ast.Module:
    tree = _parse(module)
    for check, body, place in list(_checks(tree, module)):
        if check.name in names:
            rest = body[place + 1 :]
            # `bad(...); return` and `bad(...); continue` go together.
            leaves = rest and isinstance(rest[0], ast.Return | ast.Continue)
            size = 2 if leaves and "report.bad" in check.text else 1
            body[place : place + size] = [ast.Pass() for _ in range(size)]
    return ast.fix_missing_locations(tree)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports some modules of the package without some checks."""

    def __init__(self, names: Sequence[str]) -> None:
        self.trees = {f"rtc_flower.{m}": m for m in {name.partition(".")[0] for name in names}}
        self.names = names

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if fullname in self.trees else None

    def exec_module(self, module: ModuleType) -> None:
        name = self.trees[module.__name__]
        code = compile(_without(name, self.names), f"{name} without {self.names}", "exec")
        exec(code, module.__dict__)


def load(*names: str) -> SimpleNamespace:
    """A private copy of the package's core without the checks ``names``."""
    finder = _Finder([named(name).name for name in names])
    saved = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "rtc_flower"}
    for name in saved:
        del sys.modules[name]
    sys.meta_path.insert(0, finder)
    try:
        modules = {m: importlib.import_module(f"rtc_flower.{m}") for m in MODULES}
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition(".")[0] == "rtc_flower"]:
            del sys.modules[name]
        sys.modules.update(saved)
    return SimpleNamespace(**modules)
