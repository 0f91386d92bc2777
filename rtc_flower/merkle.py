"""The append-only Merkle tree of RFC 6962: roots, inclusion and consistency proofs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from rtc_flower.errors import FormatError

_EMPTY = sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """H(0x00 || leaf)."""
    return sha256(b"\x00" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """Largest power of two below ``size``."""
    return 1 << (size - 1).bit_length() - 1


class Tree:
    """A growing tree; roots and proofs take a logarithmic number of hashes.

    Parameters
    ----------
    leaves : iterable of bytes
        Leaf hashes, 32 bytes each.

    Attributes
    ----------
    leaves : list of bytes
        All leaf hashes so far.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        self.leaves: list[bytes] = []
        self._levels = [self.leaves]  # _levels[i][j]: root over leaves j * 2**i to (j+1) * 2**i
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self.leaves)

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        self.leaves.append(leaf)
        for height, level in enumerate(self._levels):
            if len(level) & 1:
                return
            if height + 1 == len(self._levels):
                self._levels.append([])
            self._levels[height + 1].append(_node(level[-2], level[-1]))

    def root(self) -> bytes:
        """Root of the tree (32 bytes)."""
        return self._range(0, self.size) if self.leaves else _EMPTY

    def _range(self, start: int, end: int) -> bytes:
        """Root over the leaves from ``start`` to ``end``, as RFC 6962 splits them."""
        size = end - start
        if size & (size - 1) == 0 and start % size == 0:
            height = size.bit_length() - 1
            return self._levels[height][start >> height]
        middle = start + _split(size)
        return _node(self._range(start, middle), self._range(middle, end))

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Audit path of leaf ``index`` (RFC 6962 section 2.1.1)."""
        if not 0 <= index < self.size:
            raise ValueError(f"index must be in [0, {self.size}), got {index}")
        return self._descend(index)[1]

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """Proof that the tree of ``old_size`` leaves is a prefix (RFC 6962 section 2.1.2)."""
        if not 0 <= old_size <= self.size:
            raise ValueError(f"old_size must be in [0, {self.size}], got {old_size}")
        if not old_size:
            return []
        start, proof = self._descend(old_size - 1, stop=old_size)
        return [self._range(start, old_size), *proof] if start else proof

    def _descend(self, index: int, stop: int = 0) -> tuple[int, list[bytes]]:
        """Go from the root to leaf ``index``, or to a subtree on the way that ends at ``stop``.

        Returns
        -------
        int, list of bytes
            Where the subtree begins, and the roots beside the way there, lowest first.
        """
        beside: list[bytes] = []
        start, end = 0, self.size
        while end - start > 1 and end != stop:
            middle = start + _split(end - start)
            if index < middle:
                beside.insert(0, self._range(middle, end))
                end = middle
            else:
                beside.insert(0, self._range(start, middle))
                start = middle
        return start, beside


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
    _, value = _climb(index, size - 1, leaf, proof)
    if value != root:
        raise FormatError(f"expected an inclusion proof for the root {root.hex()[:16]}...")


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
    if _climb(node, last, path[0], path[1:]) != (old_root, new_root):
        raise FormatError(f"expected a consistency proof from size {old_size} to {new_size}")


def _climb(node: int, last: int, value: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Roots to which ``proof`` leads from ``value``: of all up to ``node``, and of all to ``last``.

    RFC 9162 sections 2.1.3.2 and 2.1.4.2: ``node`` and ``last`` are places in the level of
    ``value``.
    """
    old = new = value
    for sibling in proof:
        if last == 0:
            raise FormatError("expected a shorter proof")
        if node & 1 or node == last:
            old, new = _node(sibling, old), _node(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = _node(new, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise FormatError("expected a longer proof")
    return old, new
