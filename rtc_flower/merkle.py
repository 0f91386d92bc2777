"""The append-only Merkle tree of RFC 6962: roots, inclusion and consistency proofs."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from rtc_flower.errors import FormatError

__all__ = [
    "Frontier",
    "consistency_proof",
    "inclusion_proof",
    "leaf_hash",
    "tree_root",
    "verify_consistency",
    "verify_inclusion",
]

_EMPTY = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """H(0x00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a growing tree: all that appending and the root need.

    Attributes
    ----------
    size : int
        Number of leaves.
    """

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # roots of the perfect subtrees, largest first

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash (32 bytes)."""
        carry, size = leaf, self.size
        while size & 1:
            carry = _node(self._peaks.pop(), carry)
            size >>= 1
        self._peaks.append(carry)
        self.size += 1

    def root(self) -> bytes:
        """Root of the tree (32 bytes)."""
        if not self._peaks:
            return _EMPTY
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = _node(peak, root)
        return root

    def copy(self) -> Frontier:
        """Return an independent frontier of the same tree."""
        twin = Frontier()
        twin.size, twin._peaks = self.size, self._peaks.copy()
        return twin


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes (32 bytes each)."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


def _split(size: int) -> int:
    """Largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Audit path of leaf ``index`` in the tree over ``leaves`` (RFC 6962 section 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise ValueError(f"index must be in [0, {len(leaves)}), got {index}")
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*inclusion_proof(leaves[:k], index), tree_root(leaves[k:])]
    return [*inclusion_proof(leaves[k:], index - k), tree_root(leaves[:k])]


def verify_inclusion(
    leaf: bytes, index: int, *, size: int, root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the leaf hash ``leaf`` stands at ``index`` in the tree (size, root).

    Raises
    ------
    FormatError
        If it does not.
    """
    if not 0 <= index < size:
        raise FormatError(f"expected a leaf index below the tree size {size}, got {index}")
    node, last, value = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise FormatError("expected a shorter inclusion proof")
        if node & 1 or node == last:
            value = _node(sibling, value)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            value = _node(value, sibling)
        node, last = node >> 1, last >> 1
    if last or value != root:
        raise FormatError(f"expected an inclusion proof for the root {root.hex()[:16]}...")


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Proof that the tree over ``leaves[:old_size]`` is a prefix (RFC 6962 section 2.1.2)."""
    if not 0 <= old_size <= len(leaves):
        raise ValueError(f"old_size must be in [0, {len(leaves)}], got {old_size}")
    return _subproof(leaves, old_size, True) if old_size else []


def _subproof(leaves: Sequence[bytes], old_size: int, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [tree_root(leaves)]
    k = _split(len(leaves))
    if old_size <= k:
        return [*_subproof(leaves[:k], old_size, whole), tree_root(leaves[k:])]
    return [*_subproof(leaves[k:], old_size - k, False), tree_root(leaves[:k])]


def verify_consistency(
    old_size: int, new_size: int, *, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree (old_size, old_root) is a prefix of (new_size, new_root).

    Raises
    ------
    FormatError
        If the proof does not show it.
    """
    if old_size > new_size:
        raise FormatError(f"expected a tree of at least {old_size} leaves, got {new_size}")
    if old_size in (0, new_size):
        if proof or (old_root != new_root if old_size else old_root != _EMPTY):
            raise FormatError(f"expected the same root for {old_size} and {new_size} leaves")
        return
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    if not path:
        raise FormatError("expected a longer consistency proof")
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise FormatError("expected a shorter consistency proof")
        if node & 1 or node == last:
            old, new = _node(sibling, old), _node(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = _node(new, sibling)
        node, last = node >> 1, last >> 1
    if last or old != old_root or new != new_root:
        raise FormatError(f"expected a consistency proof from size {old_size} to {new_size}")
