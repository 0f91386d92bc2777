import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import second_verifier
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from rtc_flower.errors import KeyFormatError, SignatureError
from rtc_flower.keys import SigningKey, check_public_key, check_signature, load_or_create_key

P = 2**255 - 19
D = -121665 * pow(121666, P - 2, P) % P
ORDER = 2**252 + 27742317777372353535851937790883648493
SPECCHECK: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "vectors" / "ed25519_speccheck.json").read_text()
)["cases"]
Point = tuple[int, int]


def add(one: Point, two: Point) -> Point:
    (x1, y1), (x2, y2) = one, two
    t = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + t, P - 2, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - t, P - 2, P) % P


def multiply(factor: int, point: Point) -> Point:
    total = (0, 1)
    while factor:
        if factor & 1:
            total = add(total, point)
        point, factor = add(point, point), factor >> 1
    return total


def points(y: int) -> list[Point]:
    """Points of the curve with the coordinate ``y``: none, one or two."""
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    root = pow(square, (P + 3) // 8, P)
    if root * root % P != square:
        root = root * pow(2, (P - 1) // 4, P) % P
    return sorted({(root, y), (-root % P, y)}) if root * root % P == square else []


def encode(y: int, sign: int) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def small_order_points() -> list[Point]:
    """All eight: multiples of ORDER times a point whose order is a multiple of 8."""
    for y in range(2, 99):
        for point in points(y):
            generator = multiply(ORDER, point)
            if multiply(4, generator) != (0, 1):
                return [multiply(i, generator) for i in range(8)]
    raise AssertionError("no point of order 8 times ORDER below 99")


def weak_encodings() -> list[bytes]:
    """Every string of 32 bytes that decodes, however loosely, to a point of small order."""
    ys = {y for _, y in small_order_points()}
    loose = {y + P for y in ys if y + P < 2**255}
    return [encode(y, sign) for y in sorted(ys | loose) for sign in (0, 1)]


def test_there_are_eight_points_of_small_order_and_fourteen_ways_to_write_them() -> None:
    eight = small_order_points()
    assert len(set(eight)) == 8
    assert all(multiply(8, point) == (0, 1) for point in eight)
    assert len(weak_encodings()) == 14


@pytest.mark.parametrize("key", weak_encodings(), ids=bytes.hex)
def test_a_key_of_small_order_is_refused(key: bytes) -> None:
    with pytest.raises(KeyFormatError, match=r"large order|canonical"):
        check_public_key(key)


@pytest.mark.parametrize("y", range(19))
def test_a_key_that_is_not_canonical_is_refused(y: int) -> None:
    for sign in (0, 1):
        with pytest.raises(KeyFormatError, match=r"y < 2\*\*255 - 19"):
            check_public_key(encode(y + P, sign))


def test_why_small_order_keys_are_refused_one_signature_fits_every_message() -> None:
    identity = encode(1, 0)
    signature = identity + bytes(32)
    for message in (b"class 0", b"class 1"):
        check_signature(identity, signature, message)


def accepted(check: Callable[..., None], *parts: bytes) -> bool:
    try:
        check(*parts)
    except (KeyFormatError, SignatureError):
        return False
    return True


@pytest.mark.parametrize("case", SPECCHECK, ids=lambda case: f"{case['number']}: {case['about']}")
def test_n2_the_twelve_speccheck_vectors(case: dict[str, Any]) -> None:
    key, signature, message = (bytes.fromhex(case[k]) for k in ("key", "signature", "message"))
    wanted = case["enrollable"], case["verifies"]
    assert (
        accepted(check_public_key, key),
        accepted(check_signature, key, signature, message),
    ) == (wanted)
    assert wanted == (
        second_verifier.enrollable(key),
        second_verifier.signed(key, signature, message),
    )


def test_n2_no_speccheck_vector_under_a_weak_key_counts() -> None:
    counted = [case["number"] for case in SPECCHECK if case["enrollable"] and case["verifies"]]
    assert counted == [2, 3]
    assert [case["number"] for case in SPECCHECK if case["verifies"]] == [0, 1, 2, 3, 11]
    large = [bytes.fromhex(case["signature"])[32:] for case in SPECCHECK]
    assert [i for i, s in enumerate(large) if int.from_bytes(s, "little") >= ORDER] == [6, 7]


def test_what_is_no_point_or_no_key_is_refused() -> None:
    off_curve = next(y for y in range(2, 99) if not points(y))
    with pytest.raises(KeyFormatError, match="a point of the Ed25519 curve"):
        check_public_key(encode(off_curve, 0))
    for size in (0, 31, 33):
        with pytest.raises(KeyFormatError, match=f"32 bytes, got {size}"):
            check_public_key(bytes(size))


def test_honest_keys_are_accepted() -> None:
    for seed in range(50):
        check_public_key(SigningKey(bytes([seed]) * 32).public)


def test_the_first_signature_of_rfc_8032() -> None:
    key = SigningKey(
        bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    )
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.public.hex() == public
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_every_changed_bit_of_a_signature_is_caught() -> None:
    key, message = SigningKey(bytes(32)), b"a header"
    signature = key.sign(message)
    check_signature(key.public, signature, message)
    for bit in range(512):
        forged = bytearray(signature)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SignatureError):
            check_signature(key.public, bytes(forged), message)
    for size in (0, 63, 65):
        with pytest.raises(SignatureError):
            check_signature(key.public, bytes(size), message)
    with pytest.raises(SignatureError):
        check_signature(SigningKey(b"\1" * 32).public, signature, message)


def test_a_key_file_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "server.key"
    key = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key(path).public == key.public
    assert os.listdir(path.parent) == ["server.key"]


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    SigningKey(bytes(32)).save(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        SigningKey(b"\1" * 32).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["server.key"]


def test_a_process_killed_while_it_made_its_key_makes_one_when_it_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container it has the same process id again."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", killed)
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            load_or_create_key(tmp_path / "node.key")
    assert len(list(tmp_path.iterdir())) == 1
    key = load_or_create_key(tmp_path / "node.key")
    assert SigningKey.load(tmp_path / "node.key").public == key.public


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    SigningKey(bytes(32)).save(path)
    path.chmod(0o640)
    with pytest.raises(KeyFormatError, match="expected mode 0600, got 0640"):
        SigningKey.load(path)


def test_a_file_that_is_no_ed25519_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    other = generate_private_key(SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, message in ((b"", "in PEM"), (b"half a k", "in PEM"), (pem, "ECPrivateKey")):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(KeyFormatError, match=message):
            SigningKey.load(path)
    with pytest.raises(FileNotFoundError):
        SigningKey.load(tmp_path / "none")
