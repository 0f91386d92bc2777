import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledgers import SERVER, voter

from rtc_flower.checkpoint import Checkpoint, origin_of
from rtc_flower.errors import FormatError, SignatureError

STATE = Checkpoint(b"L" * 32, 7, b"R" * 32)


@given(st.integers(0, 2**64), st.binary(min_size=32, max_size=32))
def test_a_checkpoint_comes_back(size: int, root: bytes) -> None:
    state = Checkpoint(b"L" * 32, size, root)
    note = state.sign(SERVER)
    assert Checkpoint.parse(note) == Checkpoint.verify(note, SERVER.public) == state


def test_a_note_is_laid_out_as_c2sp_says() -> None:
    body, _, signature = STATE.sign(SERVER).partition("\n\n")
    assert body.split("\n") == [
        f"rtc-flower/ledger/{'4c' * 32}",
        "7",
        base64.b64encode(b"R" * 32).decode(),
    ]
    dash, name, blob = signature.rstrip("\n").split(" ")
    assert (dash, name) == ("\u2014", origin_of(b"L" * 32))
    assert len(base64.b64decode(blob)) == 4 + 64


def test_only_the_servers_signature_counts() -> None:
    note = STATE.sign(SERVER)
    with pytest.raises(SignatureError, match="found none"):
        Checkpoint.verify(note, voter(0).public)
    with pytest.raises(SignatureError, match="found none"):
        Checkpoint.verify(STATE.body() + "\n", SERVER.public)


def test_a_cosignature_beside_it_changes_nothing() -> None:
    cosigned = STATE.sign(SERVER) + STATE.sign(voter(0)).partition("\n\n")[2]
    assert Checkpoint.verify(cosigned, SERVER.public) == STATE
    assert Checkpoint.verify(cosigned, voter(0).public) == STATE


def test_any_changed_character_of_what_is_signed_is_caught() -> None:
    note = STATE.sign(SERVER)
    for place in range(len(STATE.body())):
        for new in {"0", "x", "\n", " "} - {note[place]}:
            with pytest.raises((FormatError, SignatureError)):
                Checkpoint.verify(note[:place] + new + note[place + 1 :], SERVER.public)


ROOT = base64.b64encode(b"R" * 32).decode()
NAME = origin_of(b"L" * 32)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "\n\n",
        f"other/ledger\n7\n{ROOT}\n",
        f"{NAME}\n7\n",
        f"{NAME}\n7\n{ROOT}\nmore\n",
        f"{NAME}\n-1\n{ROOT}\n",
        f"{NAME}\n{2**64}\n{ROOT}\n",
        f"{NAME}\n{'9' * 5_000}\n{ROOT}\n",
        f"{NAME}\n07\n{ROOT}\n",
        f"{NAME}\n 7\n{ROOT}\n",
        f"{NAME}\n\u0667\n{ROOT}\n",
        f"{NAME}\nseven\n{ROOT}\n",
        f"{NAME}\n7\n{ROOT[:-1]}\n",
        f"{NAME}\n7\n!{ROOT[1:]}\n",
        f"{NAME}\n7\n{base64.b64encode(b'R' * 31).decode()}\n",
        f"{NAME[:-2]}\n7\n{ROOT}\n",
        f"{NAME.upper()}\n7\n{ROOT}\n",
        f"{NAME[:-1]}z\n7\n{ROOT}\n",
        f"{NAME[:-2]} {NAME[-2:]}\n7\n{ROOT}\n",
    ],
)
def test_what_is_no_canonical_checkpoint_is_refused(body: str) -> None:
    with pytest.raises(FormatError):
        Checkpoint.parse(body + "\n")


@given(st.text(max_size=200))
def test_any_text_is_refused_with_our_error(text: str) -> None:
    with pytest.raises(FormatError):
        Checkpoint.parse(text)


@pytest.mark.parametrize("blob", ["", "!!!!", "AAAA", base64.b64encode(bytes(68)).decode()])
def test_a_broken_signature_line_is_refused(blob: str) -> None:
    note = f"{STATE.body()}\n\u2014 {NAME} {blob}\n"
    with pytest.raises((FormatError, SignatureError)):
        Checkpoint.verify(note, SERVER.public)
