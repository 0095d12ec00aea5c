"""Philox-4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") in plain Python."""

_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)


def philox4x64(counter: int, key: int) -> tuple[int, int, int, int]:
    """Return the four 64-bit words for a 256-bit counter and a 128-bit key."""
    x = [(counter >> shift) & _MASK for shift in (0, 64, 128, 192)]
    k = [key & _MASK, (key >> 64) & _MASK]
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * x[0], _MULTIPLIERS[1] * x[2]
        x = [(second >> 64) ^ x[1] ^ k[0], second & _MASK, (first >> 64) ^ x[3] ^ k[1], first & _MASK]
        k = [(k[0] + _WEYL[0]) & _MASK, (k[1] + _WEYL[1]) & _MASK]
    return x[0], x[1], x[2], x[3]


def draw24(key: int, index: int) -> int:
    """Return the 24-bit draw of entry `index`: the upper bits of its 32-bit half; block b has counter b + 1."""
    block, place = divmod(index, 8)
    word = philox4x64(block + 1, key)[place // 2]
    half = (word >> 32) if place % 2 else (word & 0xFFFFFFFF)
    return half >> 8
