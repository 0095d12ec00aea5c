"""Sizes on the command line."""

import pytest

from evovlm.cli.merge import parse_size
from evovlm.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("5GB", 5_000_000_000),
        ("500MB", 500_000_000),
        ("2GiB", 2 << 30),
        ("1.5 gb", 1_500_000_000),
        ("40kb", 40_000),
        ("1TiB", 1 << 40),
        ("7B", 7),
        ("123456", 123_456),
    ],
)
def test_a_size_means_this_number_of_bytes(text: str, size_bytes: int) -> None:
    assert parse_size(text, option="--size") == size_bytes


@pytest.mark.parametrize("text", ["", "GB", "5XB", "-5GB", "5G", "1e9", "five", "0", "0.1", "٥GB"])
def test_what_is_not_a_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--size: '.*write 5GB, 500MB, 2GiB or a number of bytes"):
        parse_size(text, option="--size")
