"""Who must have signed an entry."""

from __future__ import annotations

from rtc_flower import ballot, consensus, encoding, entries, errors, keys, roster


def check_signatures(applied: consensus.Applied, replay: consensus.Replay) -> None:
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
            case ballot.Ballot():
                entry.check_signature()
            case entries.Evidence():
                voter = entry.first.voter
                keys.check_signature(voter, entry.first_signature, entry.first.encode())
                keys.check_signature(voter, entry.second_signature, entry.second.encode())
            case roster.Roster():
                entry.check_signature(replay.roster_key, ledger_id=replay.ledger_id)
            case entries.ServerKey():
                message = encoding.TAG_SERVER_KEY + replay.ledger_id + entry.key
                keys.check_signature(replay.server_keys[-2][1], entry.old_signature, message)
                keys.check_signature(entry.key, entry.new_signature, message)
    except errors.SignatureError as error:
        step = "V5" if isinstance(entry, ballot.Ballot | entries.Evidence) else "V6"
        raise errors.SignatureError(f"{step}: entry {applied.index}: {error}") from error


def hand_over(old: keys.SigningKey, new: keys.SigningKey, *, ledger_id: bytes) -> entries.ServerKey:
    """Build the SERVER-KEY entry by which ``new`` takes over from ``old``."""
    message = encoding.TAG_SERVER_KEY + ledger_id + new.public
    return entries.ServerKey(new.public, old.sign(message), new.sign(message))
