"""Who must have signed an entry."""

from __future__ import annotations

from rtc_flower.ballot import Ballot
from rtc_flower.consensus import Applied, Replay
from rtc_flower.encoding import TAG_SERVER_KEY
from rtc_flower.entries import Evidence, ServerKey
from rtc_flower.errors import SignatureError
from rtc_flower.keys import SigningKey, check_signature
from rtc_flower.roster import Roster


def check_signatures(applied: Applied, replay: Replay) -> None:
    """Check the signatures inside an entry that was just applied.

    Raises
    ------
    SignatureError
        Beginning with the step of verification that this was: V5 for ballots and evidence, V6 for
        rosters and server keys.
    """
    entry = applied.entry
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
    except SignatureError as error:
        step = "V5" if isinstance(entry, Ballot | Evidence) else "V6"
        raise SignatureError(f"{step}: entry {applied.index}: {error}") from error


def hand_over(old: SigningKey, new: SigningKey, *, ledger_id: bytes) -> ServerKey:
    """Build the SERVER-KEY entry by which ``new`` takes over from ``old``."""
    message = TAG_SERVER_KEY + ledger_id + new.public
    return ServerKey(new.public, old.sign(message), new.sign(message))
