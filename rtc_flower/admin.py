"""Keys over time: the server's own, and the roster's, signed here or on another machine.

Under roster enrolment the admin key never touches the server. The server writes a request (what
GENESIS says and the newest roster, which the admin signed itself), the admin's machine checks it,
signs the next version, and the server appends what comes back. Every change is an entry of the
log and takes effect with the next task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rtc_flower.carried import judged_by
from rtc_flower.encoding import Reader
from rtc_flower.entries import NUMBERS, Enrolment, Genesis, decode_leaf
from rtc_flower.errors import (
    FormatError,
    KeyFormatError,
    LedgerError,
    LedgerFormatError,
    ReplayError,
)
from rtc_flower.files import reading, sync_directory
from rtc_flower.keys import SigningKey, check_public_key, load_or_create_key
from rtc_flower.ledger import Ledger
from rtc_flower.roster import Member, MemberState, Roster
from rtc_flower.state import adopt, next_key, open_ledger
from rtc_flower.textfiles import encode_fields, read_fields
from rtc_flower.wire import read_leaf

Named = Iterable[tuple[str, bytes]]


def make_key(path: Path) -> SigningKey:
    """Make a key file with mode 0600; never overwrites.

    Raises
    ------
    KeyFormatError
        If the file exists or cannot be written.
    """
    key = SigningKey.generate()
    try:
        key.save(path)
    except OSError as error:
        if path.exists():
            raise KeyFormatError(f"{path} exists already; a key is never overwritten") from error
        raise KeyFormatError(f"{path}: cannot be written ({error.strerror})") from error
    return key


def load_key(path: Path) -> SigningKey:
    """Read a key file.

    Raises
    ------
    KeyFormatError
        If it is not there, no key, or others can read it.
    """
    try:
        return SigningKey.load(path)
    except OSError as error:
        raise KeyFormatError(f"{path}: cannot be read ({error.strerror})") from error


# -- the server's key ------------------------------------------------------------------------


def rotate_server_key(state_dir: Path, *, head_file: Path | None = None) -> SigningKey:
    """Make a new server key and let it sign from the next checkpoint on.

    The key file is written, and on disk, before the log names the key; a crash in between leaves a
    key that the next rotation uses, a crash behind it one that the next opening adopts.

    Raises
    ------
    LedgerError
        If there is no ledger, or it cannot be written.
    """
    with open_state(state_dir, head_file=head_file) as ledger:
        key = load_or_create_key(next_key(state_dir))
        sync_directory(state_dir)
        ledger.rotate_key(key)
        # Committed: the old key signs nothing any more, whatever happens from here on.
        adopt(state_dir)
    return key


def open_state(state_dir: Path, *, head_file: Path | None = None) -> Ledger:
    """Open the ledger of a state directory as `open_ledger` does, but make nothing.

    Raises
    ------
    LedgerError
        As `Ledger`, and if there is no server's state.
    """
    if state_dir.is_file():
        raise LedgerFormatError(
            f"{state_dir}: expected the server's folder, found a file; name {state_dir.parent}"
        )
    if not (path := state_dir / "ledger.db").is_file():
        raise LedgerFormatError(f"{path}: expected a server's state, found none")
    return open_ledger(state_dir, head_file=head_file)


# -- the roster ------------------------------------------------------------------------------


def changed(
    roster: Roster, *, enrol: Named = (), revoke: Iterable[str] = (), rotate: Named = ()
) -> Roster:
    """Build the next version of a roster, unsigned.

    Parameters
    ----------
    roster : Roster
    enrol : iterable of (str, bytes)
        Names and public keys of newcomers.
    revoke : iterable of str
        Names of active members who vote no more.
    rotate : iterable of (str, bytes)
        Names of active members, each with its new key: the old one is revoked.

    Raises
    ------
    FormatError, KeyFormatError
        If a name is not active, or stands twice, or a key may not be enrolled.
    """
    enrol, rotate = list(enrol), list(rotate)
    gone = [*revoke, *(name for name, _ in rotate)]
    active = {m.name for m in roster.members if m.state is MemberState.ACTIVE}
    unknown = [name for name in gone if name not in active]
    if unknown or len(set(gone)) < len(gone):
        raise FormatError(
            f"expected names of active members ({', '.join(sorted(active)) or 'none'}), each once, "
            f"got {', '.join(gone)}"
        )
    if not gone and not enrol:
        raise FormatError("expected somebody to enrol, revoke or rotate")
    for name, key in [*rotate, *enrol]:
        with judged_by(name):
            check_public_key(key)
    kept = tuple(
        replace(m, state=MemberState.REVOKED) if m.name in gone else m for m in roster.members
    )
    added = tuple(Member(key, MemberState.ACTIVE, name) for name, key in [*rotate, *enrol])
    successor = Roster(roster.version + 1, kept + added)
    _refuse_twice("key", [m.key.hex() for m in successor.members])
    names = [m.name for m in successor.members if m.state is MemberState.ACTIVE]
    _refuse_twice("active name", names)
    successor.check_follows(roster)
    return successor


def _refuse_twice(what: str, values: list[str]) -> None:
    twice = [repr(value) for value, count in Counter(values).items() if count > 1]
    if twice:
        raise FormatError(f"expected every {what} once, got {', '.join(twice)} twice")


def change_roster(
    ledger: Ledger, *, enrol: Named = (), revoke: Iterable[str] = (), rotate: Named = ()
) -> Roster:
    """Append the next roster, signed by the server's key: under open enrolment.

    Parameters are those of `changed`.

    Raises
    ------
    LedgerError
        Under roster enrolment, where only the admin key signs rosters.
    FormatError, KeyFormatError
        As `changed`.
    """
    genesis = ledger.replay.genesis
    if genesis is not None and genesis.enrolment is Enrolment.ROSTER:
        raise LedgerError(
            "only the admin key changes this roster: 'rtc-flower roster request', then "
            "'roster sign' where that key is, then 'roster apply'"
        )
    roster = changed(ledger.replay.roster, enrol=enrol, revoke=revoke, rotate=rotate)
    roster = roster.sign(ledger.key, ledger_id=ledger.replay.ledger_id)
    ledger.apply_roster(roster)
    return roster


@dataclass(frozen=True, slots=True)
class RosterRequest:
    """What the admin's machine needs to sign the next roster.

    Attributes
    ----------
    genesis : bytes
        Leaf of GENESIS: it names the ledger and the admin key.
    roster : bytes
        The newest roster with its signature (payload of its ROSTER entry); empty for none.
    """

    genesis: bytes
    roster: bytes

    @classmethod
    def of(cls, ledger: Path) -> RosterRequest:
        """Take it from a ledger file.

        Raises
        ------
        LedgerError
            If its roster is not the admin's to sign.
        """
        with reading(ledger) as connection:
            first = connection.execute("SELECT leaf FROM entry WHERE idx = 0").fetchone()
            last = connection.execute(
                "SELECT leaf FROM entry WHERE substr(leaf, 17, 1) = ? ORDER BY idx DESC LIMIT 1",
                (bytes([NUMBERS[Roster]]),),
            ).fetchone()
        if first is None:
            raise LedgerFormatError(f"{ledger}: expected at least GENESIS, found no entry")
        if not all(isinstance(leaf, bytes) for (leaf,) in (first, *filter(None, [last]))):
            raise LedgerFormatError(f"{ledger}: expected entries of bytes, found others")
        if read_leaf(first[0], Genesis)[0].enrolment is not Enrolment.ROSTER:
            raise LedgerError(
                f"{ledger}: enrolment is open here; use 'rtc-flower roster enrol', 'revoke' or "
                "'rotate' on the server"
            )
        entry = decode_leaf(last[0])[0] if last else None
        return cls(first[0], entry.encode() if isinstance(entry, Roster) else b"")

    def sign(
        self,
        key: SigningKey,
        *,
        enrol: Named = (),
        revoke: Iterable[str] = (),
        rotate: Named = (),
    ) -> SignedRoster:
        """Sign the next version, on the machine that has the admin key.

        The roster that the request shows must be one that ``key`` signed: a server cannot slip a
        member in.

        Raises
        ------
        KeyFormatError
            If ``key`` is not this ledger's admin key.
        SignatureError
            If the roster in the request was not signed by it.
        FormatError
            As `changed`.
        """
        genesis, ledger_id = read_leaf(self.genesis, Genesis)
        if genesis.enrolment is not Enrolment.ROSTER or genesis.admin_key != key.public:
            raise KeyFormatError(
                f"expected the admin key {genesis.admin_key.hex()}, got {key.public.hex()}"
            )
        old = self.read_roster()
        if self.roster:
            with judged_by("V6: the roster in the request"):
                old.check_signature(key.public, ledger_id=ledger_id)
        new = changed(old, enrol=enrol, revoke=revoke, rotate=rotate)
        return SignedRoster(ledger_id, new.sign(key, ledger_id=ledger_id))

    def read_roster(self) -> Roster:
        """The newest roster; version 0 for none. `FormatError` if it does not decode."""
        return _decode(self.roster) if self.roster else Roster()

    def to_json(self) -> str:
        """Text form."""
        return encode_fields("roster request", 1, asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RosterRequest:
        """Inverse of `to_json`; may raise `FormatError` or `UnsupportedError`."""
        kinds = {"genesis": bytes, "roster": bytes}
        return cls(**read_fields(text, "roster request", version=1, fields=kinds))


@dataclass(frozen=True, slots=True)
class SignedRoster:
    """The next roster on its way from the admin to the server.

    Attributes
    ----------
    ledger_id : bytes
    roster : Roster
    """

    ledger_id: bytes
    roster: Roster

    def to_json(self) -> str:
        """Text form."""
        fields = {"ledger_id": self.ledger_id, "roster": self.roster.encode()}
        return encode_fields("signed roster", 1, fields)

    @classmethod
    def from_json(cls, text: str) -> SignedRoster:
        """Inverse of `to_json`; may raise `FormatError` or `UnsupportedError`."""
        kinds = {"ledger_id": bytes, "roster": bytes}
        fields = read_fields(text, "signed roster", version=1, fields=kinds)
        return cls(fields["ledger_id"], _decode(fields["roster"]))


def apply_roster(ledger: Ledger, signed: SignedRoster) -> None:
    """Append a roster that the admin signed.

    Raises
    ------
    FormatError
        If it is for another ledger.
    SignatureError, ReplayError
        If the admin key did not sign it, or it does not follow the newest roster.
    """
    if signed.ledger_id != ledger.replay.ledger_id:
        raise FormatError(
            f"expected a roster for ledger {ledger.replay.ledger_id.hex()}, got one for "
            f"{signed.ledger_id.hex()}"
        )
    newest = ledger.replay.roster.version
    try:
        ledger.apply_roster(signed.roster)
    except ReplayError as error:
        if signed.roster.version == newest + 1:
            raise
        raise ReplayError(
            "R2",
            f"expected roster version {newest + 1}, got {signed.roster.version}: it was applied "
            "already, or the roster has changed since the request; if so, run 'roster request' "
            "and 'roster sign' again",
        ) from error


def _decode(payload: bytes) -> Roster:
    reader = Reader(payload)
    roster = Roster.read(reader)
    reader.end()
    return roster
