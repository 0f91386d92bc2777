"""Who must have signed an entry."""

from __future__ import annotations

from rtc_flower.ballot import Ballot
from rtc_flower.consensus import Applied, Replay
from rtc_flower.encoding import TAG_SERVER_KEY
from rtc_flower.entries import Evidence, ServerKey
from rtc_flower.errors import SignatureError
from rtc_flower.keys import SigningKey, check_signature
from rtc_flower.roster import Roster

SIGNED_BY_SERVER = "V6"
"""Step of verification for rosters and server keys; ballots and evidence are step V5."""


def check_signatures(applied: Applied, replay: Replay) -> str | None:
    """Check the signatures inside an entry that was just applied.

    Returns
    -------
    str or None
        The step of verification that this was; None for entries without signatures.

    Raises
    ------
    SignatureError
        Beginning with the step.
    """
    entry = applied.entry
    step = "V5" if isinstance(entry, Ballot | Evidence) else SIGNED_BY_SERVER
    try:
        match entry:
            case Ballot():
                entry.check_signature()
            case Evidence():
                voter = entry.first.voter
                check_signature(voter, entry.first_signature, entry.first.encode())
                check_signature(voter, entry.second_signature, entry.second.encode())
            case Roster():
                entry.check_signature(replay.roster_key, ledger_id=replay.ledger_id)
            case ServerKey():
                message = TAG_SERVER_KEY + replay.ledger_id + entry.key
                check_signature(replay.server_keys[-2][1], entry.old_signature, message)
                check_signature(entry.key, entry.new_signature, message)
            case _:
                return None
    except SignatureError as error:
        raise SignatureError(f"{step}: entry {applied.index}: {error}") from error
    return step


def hand_over(old: SigningKey, new: SigningKey, *, ledger_id: bytes) -> ServerKey:
    """Build the SERVER-KEY entry by which ``new`` takes over from ``old``."""
    message = TAG_SERVER_KEY + ledger_id + new.public
    return ServerKey(new.public, old.sign(message), new.sign(message))
