from dataclasses import replace

import pytest
from ledgers import ADMIN, SERVER, voter, without

from rtc_flower.encoding import Reader
from rtc_flower.errors import FormatError, KeyFormatError, SignatureError
from rtc_flower.roster import Member, MemberState, Roster

LEDGER = b"L" * 32
ROSTER = Roster().enrol([(voter(i).public, f"node {i}") for i in range(3)])


def test_enrolment_appends_and_counts_versions() -> None:
    assert (Roster().version, ROSTER.version) == (0, 1)
    assert ROSTER.active() == {voter(i).public: i for i in range(3)}
    longer = ROSTER.enrol([(voter(3).public, "node 3")])
    assert longer.version == 2
    assert longer.members[:3] == ROSTER.members
    assert ROSTER.enrol([]).members == ROSTER.members


def test_a_roster_comes_back() -> None:
    signed = without(ROSTER, voter(1).public).sign(ADMIN, ledger_id=LEDGER)
    reader = Reader(signed.encode())
    assert Roster.read(reader) == signed
    reader.end()


def test_a_roster_is_signed_for_one_ledger_by_one_key() -> None:
    signed = ROSTER.sign(ADMIN, ledger_id=LEDGER)
    signed.check_signature(ADMIN.public, ledger_id=LEDGER)
    with pytest.raises(SignatureError):
        signed.check_signature(ADMIN.public, ledger_id=b"M" * 32)
    with pytest.raises(SignatureError):
        signed.check_signature(SERVER.public, ledger_id=LEDGER)
    with pytest.raises(SignatureError):
        replace(signed, version=2).check_signature(ADMIN.public, ledger_id=LEDGER)
    with pytest.raises(SignatureError):
        replace(signed, members=signed.members[:2]).check_signature(ADMIN.public, ledger_id=LEDGER)


def test_a_revoked_member_keeps_its_place_and_is_not_active() -> None:
    revoked = without(ROSTER, voter(1).public)
    revoked.check_follows(ROSTER)
    assert revoked.active() == {voter(0).public: 0, voter(2).public: 2}
    assert [m.state for m in revoked.members] == [1, 2, 1]


def test_the_name_of_a_revoked_member_may_be_used_again_its_key_not() -> None:
    revoked = without(ROSTER, voter(1).public)
    rotated = revoked.enrol([(voter(5).public, "node 1")])
    assert rotated.active()[voter(5).public] == 3
    with pytest.raises(FormatError, match="every key once"):
        revoked.enrol([(voter(1).public, "again")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: replace(r, version=3), "roster version 2, got 3"),
        (lambda r: replace(r, version=1), "roster version 2, got 1"),
        (lambda r: replace(r, members=r.members[:2]), "at least 3 members, got 2"),
        (lambda r: replace(r, members=r.members[::-1]), "expected member 'node 0' unchanged"),
        (
            lambda r: replace(r, members=(replace(r.members[0], name="x"), *r.members[1:])),
            "expected member 'node 0' unchanged",
        ),
        (
            lambda r: replace(
                r, members=(*r.members, Member(voter(7).public, MemberState.ACTIVE, "node 0"))
            ),
            "every active name once",
        ),
    ],
)
def test_what_may_not_follow(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(FormatError, match=message):
        change(replace(ROSTER, version=2)).check_follows(ROSTER)


def test_revoked_is_final() -> None:
    revoked = without(ROSTER, voter(0).public)
    revived = replace(
        revoked,
        version=3,
        members=(replace(revoked.members[0], state=MemberState.ACTIVE), *revoked.members[1:]),
    )
    with pytest.raises(FormatError, match="expected member 'node 0' unchanged"):
        revived.check_follows(revoked)


def test_two_nodes_with_one_key_or_one_name_are_refused() -> None:
    with pytest.raises(FormatError, match="every key once"):
        ROSTER.enrol([(voter(0).public, "twin")])
    with pytest.raises(FormatError, match="every active name once"):
        ROSTER.enrol([(voter(4).public, "node 0")])


def test_a_weak_key_is_not_enrolled() -> None:
    with pytest.raises(KeyFormatError, match="large order"):
        ROSTER.enrol([((1).to_bytes(32, "little"), "identity")])


def test_a_name_has_at_most_64_bytes() -> None:
    Member(voter(0).public, MemberState.ACTIVE, "x" * 64).encode()
    with pytest.raises(FormatError, match="at most 64 bytes"):
        Member(voter(0).public, MemberState.ACTIVE, "x" * 65).encode()
