"""Random streams named by what they are for, so that no two uses share one and none depends on call order."""

import hashlib

import numpy as np


def derive_seed(*parts: str | int) -> int:
    """Return a 64-bit seed that depends on every part and on nothing else.

    Parts are length-prefixed before hashing (BLAKE2b), so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        encoded = f"{type(part).__name__}:{part}".encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """Return a numpy generator (Philox) seeded by `derive_seed(*parts)`."""
    return np.random.Generator(np.random.Philox(derive_seed(*parts)))
