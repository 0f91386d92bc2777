from collections.abc import Sequence
from hashlib import sha256

import pytest
from ledgers import consistency_proof, inclusion_proof, tree_root

from rtc_flower.errors import FormatError
from rtc_flower.merkle import Tree, leaf_hash, verify_consistency, verify_inclusion

# The test tree of Certificate Transparency: eight leaves and the roots of its prefixes.
CT_LEAVES = (
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
)
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
LEAVES = [leaf_hash(bytes([i])) for i in range(65)]


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256().digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\1" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


def test_roots_of_the_certificate_transparency_test_tree() -> None:
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in CT_LEAVES]
    assert tuple(tree_root(leaves[:size]).hex() for size in range(1, 9)) == CT_ROOTS
    assert tree_root([]).hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


@pytest.mark.parametrize("size", range(65))
def test_a_growing_tree_has_the_root_that_the_rfc_defines(size: int) -> None:
    root = by_definition(LEAVES[:size])
    tree = Tree()
    for leaf in LEAVES[:size]:
        tree.append(leaf)
    assert tree.root() == tree_root(LEAVES[:size]) == root
    assert (tree.size, tree.leaves) == (size, LEAVES[:size])
    tree.append(LEAVES[0])
    assert tree.root() == by_definition([*LEAVES[:size], LEAVES[0]])


@pytest.mark.parametrize("size", range(1, 65))
def test_inclusion_of_every_leaf_and_of_nothing_else(size: int) -> None:
    leaves = LEAVES[:size]
    root = tree_root(leaves)
    for index, leaf in enumerate(leaves):
        proof = inclusion_proof(leaves, index)
        verify_inclusion(leaf, index, size=size, root=root, proof=proof)
        wrong = [
            (LEAVES[64], index, root, proof),
            (leaf, index, bytes(32), proof),
            (leaf, index, root, [*proof, bytes(32)]),
            (leaf, index ^ 1, root, proof),
            (leaf, size, root, proof),
            (leaf, -1, root, proof),
        ]
        if proof:
            wrong += [(leaf, index, root, proof[:-1]), (leaf, index, root, [bytes(32), *proof[1:]])]
        for claimed, place, head, path in wrong:
            with pytest.raises(FormatError):
                verify_inclusion(claimed, place, size=size, root=head, proof=path)


@pytest.mark.parametrize("size", range(65))
def test_consistency_of_every_prefix_and_of_nothing_else(size: int) -> None:
    leaves = LEAVES[:size]
    new = tree_root(leaves)
    for old_size in range(size + 1):
        old = tree_root(leaves[:old_size])
        proof = consistency_proof(leaves, old_size)
        verify_consistency(old_size, size, old_root=old, new_root=new, proof=proof)
        with pytest.raises(FormatError):
            verify_consistency(
                old_size, size, old_root=old, new_root=new, proof=[*proof, bytes(32)]
            )
        with pytest.raises(FormatError):
            verify_consistency(old_size, size, old_root=bytes(32), new_root=new, proof=proof)
        if old_size:
            with pytest.raises(FormatError):
                verify_consistency(old_size, size, old_root=old, new_root=bytes(32), proof=proof)
        if proof:
            with pytest.raises(FormatError):
                verify_consistency(old_size, size, old_root=old, new_root=new, proof=proof[:-1])


def test_a_rewritten_history_has_no_consistency_proof() -> None:
    rewritten = [LEAVES[64], *LEAVES[1:7]]
    proof = consistency_proof(rewritten, 3)
    with pytest.raises(FormatError):
        verify_consistency(
            3, 7, old_root=tree_root(LEAVES[:3]), new_root=tree_root(rewritten), proof=proof
        )


def test_a_tree_does_not_shrink() -> None:
    with pytest.raises(FormatError, match="at least 5 leaves, got 4"):
        verify_consistency(5, 4, old_root=bytes(32), new_root=bytes(32), proof=[])


def test_proofs_outside_the_tree_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match=r"index must be in \[0, 3\), got 3"):
        inclusion_proof(LEAVES[:3], 3)
    with pytest.raises(ValueError, match=r"old_size must be in \[0, 3\], got 4"):
        consistency_proof(LEAVES[:3], 4)


def test_a_node_is_no_leaf() -> None:
    pair = b"\1" + LEAVES[0] + LEAVES[1]
    assert leaf_hash(pair) != tree_root(LEAVES[:2])
