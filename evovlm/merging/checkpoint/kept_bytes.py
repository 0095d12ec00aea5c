"""What a merged model takes from its host as it is: copied, and compared again after writing, in bounded memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from evovlm.errors import BrokenCheckpoint
from evovlm.merging.checkpoint.safetensors_file import PIECE_BYTES, TensorPlace, differing_piece, tensor_places
from evovlm.merging.checkpoint.shards import ShardedWriter


class KeptBytes(NamedTuple):
    """Bytes `start` .. `stop - 1` of the tensor `name` of the result: those of the host's tensor at `place`."""

    name: str
    place: TensorPlace
    start: int
    stop: int


def copy_kept(kept: Iterable[KeptBytes], writer: ShardedWriter) -> None:
    """Copy the host's bytes; raises BrokenCheckpoint when they cannot be read, OSError when not written."""
    buffer = bytearray(PIECE_BYTES)
    for each in kept:
        for start in range(each.start, each.stop, PIECE_BYTES):
            view = memoryview(buffer)[: each.stop - start]
            each.place.read_into(view, start=start)
            writer.write(each.name, start, view)


def check_kept(folder: Path, kept: Iterable[KeptBytes]) -> None:
    """Read the host's bytes and the written ones again; raise BrokenCheckpoint where they differ."""
    written: Mapping[str, TensorPlace] = {
        name: place for file in sorted(folder.glob("*.safetensors")) for name, place in tensor_places(file).items()
    }
    for each in kept:
        piece = differing_piece(written[each.name], each.place, start=each.start, stop=each.stop)
        if piece is not None:
            raise BrokenCheckpoint(
                f"{folder}: {each.name} was written differently from the host's, between byte {piece.start} and "
                f"{piece.stop} of the tensor; check the disk."
            )
