"""Random streams named by what they are for, so that no two uses share one and none depends on call order."""

import hashlib

import numpy as np


def derive_seed(*parts: str | int) -> int:
    """Return a 64-bit seed that depends on every part and on nothing else.

    Parts are length-prefixed before hashing (BLAKE2b), so ("ab", "c") and ("a", "bc") differ.
    """
    encoded = [f"{type(part).__name__}:{part}".encode() for part in parts]
    text = b"".join([len(each).to_bytes(8, "little") + each for each in encoded])
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(*parts: str | int) -> np.random.Generator:
    """Return a numpy generator (Philox) seeded by `derive_seed(*parts)`."""
    return np.random.Generator(np.random.Philox(derive_seed(*parts)))
