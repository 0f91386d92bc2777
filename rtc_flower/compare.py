"""Two histories of one ledger: find them, and prove them to anyone.

A server that signs two logs which do not continue one another has shown different things to
different people. Two of its signed checkpoints prove it: two roots for one size, or a root at one
size and a larger tree in which that size has another root. The proof needs no ledger to check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rtc_flower.carried import file_size, judged_by, read_text
from rtc_flower.checkpoint import Checkpoint
from rtc_flower.encoding import TAG_SERVER_KEY
from rtc_flower.entries import NUMBERS, Genesis, ServerKey
from rtc_flower.errors import FormatError, LedgerError, LedgerFormatError, SignatureError
from rtc_flower.files import reading
from rtc_flower.keys import check_signature
from rtc_flower.merkle import Tree, leaf_hash, verify_consistency
from rtc_flower.receipts import KeptReceipt
from rtc_flower.textfiles import encode_fields, read_fields
from rtc_flower.wire import join_leaves, read_leaf, server_key_of, split_leaves

__all__ = ["Comparison", "Identity", "Statement", "TwoHistories", "compare"]

_SQLITE = b"SQLite format 3\x00"
_TYPE = 16  # place of the type byte in a leaf
_EXIT = {"consistent": 0, "inconsistent": 1, "cannot say": 2}


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose signatures count for a ledger.

    Attributes
    ----------
    genesis : bytes
        Leaf of GENESIS, whose hash is the ledger id; empty when it is not at hand.
    rotations : bytes
        Leaves of every server key since (`rtc_flower.wire.join_leaves`).
    server_key : bytes
        A key that the reader brings, or empty; where GENESIS is at hand, it must lead to it.
    """

    genesis: bytes = b""
    rotations: bytes = b""
    server_key: bytes = b""

    def keys(self, ledger_id: bytes) -> tuple[bytes, ...]:
        """Every key that the server has signed with; none if nothing is known.

        Raises
        ------
        FormatError, SignatureError
            If GENESIS is another ledger's, or the keys do not follow one another.
        """
        if not self.genesis:
            return (self.server_key,) if self.server_key else ()
        genesis, found = read_leaf(self.genesis, Genesis)
        if found != ledger_id:
            raise FormatError(f"expected GENESIS of ledger {ledger_id.hex()}, got {found.hex()}'s")
        leaves = split_leaves(self.rotations)
        return tuple(
            server_key_of(genesis, join_leaves(leaves[:count]), ledger_id=ledger_id)
            for count in range(len(leaves) + 1)
        )

    @classmethod
    def read(cls, path: Path) -> Identity:
        """Take it from a ledger or from a receipt.

        Raises
        ------
        FormatError, SignatureError, LedgerFormatError
            If the file is neither.
        """
        if _is_database(path):
            return _History.read(path).identity
        text = read_text(path)
        with judged_by(str(path)):
            receipt = KeptReceipt.from_json(text)
            receipt.check()
        return cls(receipt.genesis, receipt.rotations)


def _expect_key(key: bytes, ledger_id: bytes, *identities: Identity) -> None:
    """Refuse what is not of the server whose ``key`` the reader brings, if any."""
    for leaf in [leaf for identity in identities for leaf in split_leaves(identity.rotations)]:
        entry, _ = read_leaf(leaf, ServerKey)
        if entry.key == key:  # anybody can hand over to a key whose owner knows nothing of it
            check_signature(key, entry.new_signature, TAG_SERVER_KEY + ledger_id + key)
    found = [known for identity in identities for known in identity.keys(ledger_id)]
    if key and key not in found:
        raise SignatureError(
            f"expected a ledger of the server with key {key.hex()[:16]}..., got one of "
            f"{found[0].hex()[:16]}..."
        )


@dataclass(frozen=True, slots=True)
class Statement:
    """A checkpoint, and whose signature counts for it.

    Attributes
    ----------
    note : str
        Signed note.
    identity : Identity
    """

    note: str
    identity: Identity

    def check(self) -> tuple[Checkpoint, bool]:
        """Read the checkpoint; the second says whether its signature could be checked.

        Raises
        ------
        FormatError, SignatureError
            If it is no checkpoint, or its server did not sign it.
        """
        stated = Checkpoint.parse(self.note)
        if stated.size == 0:
            raise FormatError("expected a checkpoint of at least 1 entry, got one of none")
        keys = self.identity.keys(stated.ledger_id)
        for key in keys:
            try:
                return Checkpoint.verify(self.note, key), True
            except SignatureError:
                continue
        if keys:
            raise SignatureError(
                f"expected a checkpoint signed by this ledger's server, {keys[-1].hex()[:16]}..., "
                "got one that it did not sign"
            )
        return stated, False


@dataclass(frozen=True, slots=True)
class TwoHistories:
    """Proof that a server signed two histories of one ledger.

    Attributes
    ----------
    first, second : Statement
        The first is not larger than the second.
    root : bytes
        The second's root at the first's size: another one than the first states.
    path : tuple of bytes
        RFC 6962 consistency proof of that; empty when both are of one size.
    """

    first: Statement
    second: Statement
    root: bytes
    path: tuple[bytes, ...]

    def check(self) -> bool:
        """Check the proof, offline; return whether both signatures could be checked.

        Raises
        ------
        FormatError, SignatureError
            If it proves nothing.
        """
        (first, signed), (second, also) = self.first.check(), self.second.check()
        if first.ledger_id != second.ledger_id:
            raise FormatError("expected two checkpoints of one ledger, got those of two ledgers")
        identities = self.first.identity, self.second.identity
        for identity in identities:
            _expect_key(identity.server_key, first.ledger_id, *identities)
        if not 0 < first.size <= second.size:
            raise FormatError(f"expected sizes in order, got {first.size} and {second.size}")
        verify_consistency(
            first.size,
            second.size,
            old_root=self.root,
            new_root=second.root,
            proof=self.path,
        )
        if first.root == self.root:
            raise FormatError("expected two histories, got two checkpoints of the same one")
        return signed and also

    def to_json(self) -> str:
        """Text form."""
        fields: dict[str, object] = {}
        for name, statement in (("first", self.first), ("second", self.second)):
            fields[f"{name}_note"] = statement.note
            fields[f"{name}_genesis"] = statement.identity.genesis
            fields[f"{name}_rotations"] = statement.identity.rotations
        fields |= {"root": self.root, "path": self.path}
        return encode_fields("proof of two histories", 1, fields)

    @classmethod
    def from_json(
        cls, text: str, *, server_key: bytes = b"", identity: Identity | None = None
    ) -> TwoHistories:
        """Inverse of `to_json`.

        Parameters
        ----------
        server_key : bytes
            The server that it has to be about; needed where the proof holds no GENESIS.
        identity : Identity, optional
            The ledger that it has to be about; serves where the proof holds no GENESIS.

        Raises
        ------
        FormatError, SignatureError
            If it is truncated or something else, or not about the ledger of ``identity``.
        UnsupportedError
            If it is of a newer version.
        """
        each: dict[str, Any] = {"note": str, "genesis": bytes, "rotations": bytes}
        kinds = {f"{n}_{e}": kind for n in ("first", "second") for e, kind in each.items()}
        kinds |= {"root": bytes, "path": tuple[bytes, ...]}
        fields = read_fields(text, "proof of two histories", version=1, fields=kinds)
        first, second = (
            Statement(
                fields[f"{name}_note"],
                Identity(fields[f"{name}_genesis"], fields[f"{name}_rotations"], server_key),
            )
            for name in ("first", "second")
        )
        if identity is not None:
            identity.keys(Checkpoint.parse(first.note).ledger_id)
            brought = replace(identity, server_key=server_key)
            first, second = (
                side if side.identity.genesis else replace(side, identity=brought)
                for side in (first, second)
            )
        return cls(first, second, fields["root"], fields["path"])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What two checkpoints or ledgers say of one another.

    Attributes
    ----------
    verdict : str
        ``consistent``, ``inconsistent`` or ``cannot say``: also where signatures were not checked,
        since anybody can write a note that nobody signed.
    detail : str
    signed : bool
        Whether the signatures of the two checkpoints were checked.
    proof : TwoHistories or None
        When they are inconsistent; it holds for whoever knows whose signatures those are.
    """

    verdict: str
    detail: str
    signed: bool = False
    proof: TwoHistories | None = None

    @property
    def exit_code(self) -> int:
        """0 consistent, 1 inconsistent, 2 cannot say."""
        return _EXIT[self.verdict]


@dataclass(frozen=True)
class _History:
    """A ledger's log as hashes, and its stored checkpoints."""

    path: Path
    ledger_id: bytes
    identity: Identity
    leaves: list[bytes]
    roots: list[bytes]
    notes: dict[int, str]

    @classmethod
    def read(cls, path: Path) -> _History:
        leaves, rotations, tree = [], [], Tree()
        roots, genesis = [tree.root()], b""
        with reading(path) as connection:
            rows = connection.execute("SELECT idx, leaf FROM entry ORDER BY idx")
            for expected, (index, leaf) in enumerate(rows):
                if index != expected or not isinstance(leaf, bytes):
                    raise LedgerFormatError(f"{path}: expected entry {expected}, found {index}")
                genesis = genesis or leaf
                leaves.append(leaf_hash(leaf))
                tree.append(leaves[-1])
                roots.append(tree.root())
                if leaf[_TYPE : _TYPE + 1] == bytes([NUMBERS[ServerKey]]):
                    rotations.append(leaf)
            notes = dict(connection.execute("SELECT size, note FROM checkpoint"))
        if not leaves:
            raise LedgerFormatError(f"{path}: expected at least GENESIS, found no entry")
        identity = Identity(genesis, join_leaves(rotations))
        return cls(path, leaves[0], identity, leaves, roots, notes)

    @property
    def size(self) -> int:
        return len(self.leaves)

    def statement(self, size: int) -> Statement:
        """The stored checkpoint of ``size`` entries, which must be signed and of this log."""
        statement = Statement(str(self.notes.get(size, "")), self.identity)
        stated, _ = statement.check()
        if stated != Checkpoint(self.ledger_id, size, self.roots[size]):
            raise LedgerError(
                f"{self.path}: its checkpoint of {size} entries is not of its own log; "
                "run 'rtc-flower verify'"
            )
        return statement


def _is_database(path: Path) -> bool:
    if path.is_dir():
        what = f"found a folder; name {path / 'ledger.db'}"
        raise FormatError(f"{path}: expected a checkpoint or a ledger, {what}")
    try:
        file_size(path)
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error


def compare(first: Path, second: Path, *, identity: Identity | None = None) -> Comparison:
    """Compare two checkpoints, two ledgers, or one of each.

    Parameters
    ----------
    first, second : Path
        Text files with a signed note, or ledgers.
    identity : Identity, optional
        Whose signatures count for notes; a ledger's own by default. Two notes need it, and so does
        one that was signed after a rotation that the ledger does not have.

    Returns
    -------
    Comparison

    Raises
    ------
    FormatError, SignatureError, LedgerError
        If one of them is damaged, or not signed by the ledger's server.
    """
    sides = [(p, _History.read(p) if _is_database(p) else read_text(p)) for p in (first, second)]
    histories = [side for _, side in sides if isinstance(side, _History)]
    notes = [(str(path), side) for path, side in sides if isinstance(side, str)]
    if len(histories) == 2:
        return _two_ledgers(identity, *histories)
    known = identity or (histories[0].identity if histories else Identity())
    ids = {history.ledger_id for history in histories}
    for name, note in notes:
        with judged_by(name):
            ids.add(Checkpoint.parse(note).ledger_id)
    if len(ids) > 1:
        return Comparison("cannot say", "they are of two different ledgers")
    statements = []
    for name, note in notes:
        statements.append(Statement(note, known))
        with judged_by(name):
            statements[-1].check()
    identities = [known, *(history.identity for history in histories)]
    _expect_key(known.server_key, ids.pop(), *identities)
    if histories:
        return _with_ledger(statements[0], histories[0])
    return _two_notes(*statements)


def _two_notes(one: Statement, other: Statement) -> Comparison:
    (a, signed), (b, also) = one.check(), other.check()
    both = signed and also
    if a.size != b.size:
        return Comparison(
            "cannot say",
            f"checkpoints of {a.size} and {b.size} entries; only a ledger can tell: compare it "
            "with each",
            both,
        )
    same = a.root == b.root
    verdict = "cannot say" if not both else "consistent" if same else "inconsistent"
    detail = f"the same {a.size} entries" if same else f"two roots for the same {a.size} entries"
    proof = None if same else TwoHistories(one, other, b.root, ())
    return Comparison(verdict, detail, both, proof)


def _with_ledger(statement: Statement, history: _History) -> Comparison:
    stated, signed = statement.check()
    if stated.size > history.size:
        return Comparison(
            "cannot say",
            f"the ledger has {history.size} entries, the checkpoint {stated.size}: the ledger is "
            f"{stated.size - history.size} entries behind",
            signed,
        )
    if stated.root == history.roots[stated.size]:
        detail = f"the ledger of {history.size} entries continues the checkpoint's {stated.size}"
        return Comparison("consistent", detail, signed)
    size = stated.size if stated.size in history.notes else history.size
    return Comparison(
        "inconsistent",
        f"the checkpoint states {stated.size} entries that are not those of the ledger",
        signed,
        _prove(statement, stated.size, history, size),
    )


def _two_ledgers(known: Identity | None, one: _History, other: _History) -> Comparison:
    if one.ledger_id != other.ledger_id:
        return Comparison("cannot say", "they are two different ledgers")
    if known is not None:
        brought = (known,) if known.genesis else ()
        _expect_key(known.server_key, one.ledger_id, one.identity, other.identity, *brought)
    shorter, longer = sorted((one, other), key=lambda history: history.size)
    shorter.statement(shorter.size)
    longer.statement(longer.size)
    common = _common(shorter.leaves, longer.leaves)
    if common == shorter.size:
        more = longer.size - common
        detail = f"the same {common} entries" + (f", then {more} more in one" if more else "")
        return Comparison("consistent", detail, signed=True)
    equal = sorted(size for size in shorter.notes.keys() & longer.notes.keys() if size > common)
    here, there = (equal[0], equal[0]) if equal else (shorter.size, longer.size)
    return Comparison(
        "inconsistent",
        f"they part at entry {common}; from there on the server signed two histories",
        signed=True,
        proof=_prove(shorter.statement(here), here, longer, there),
    )


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Number of entries before the first that differs."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _prove(statement: Statement, size: int, history: _History, other: int) -> TwoHistories:
    """Set ``statement`` of ``size`` against the checkpoint of ``other`` entries of a log."""
    path = Tree(history.leaves[:other]).consistency_proof(size)
    return TwoHistories(statement, history.statement(other), history.roots[size], tuple(path))
