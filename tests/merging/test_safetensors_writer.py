"""safetensors files written in any order, by any thread."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from evovlm.merging.checkpoint import safetensors_writer
from evovlm.merging.checkpoint.safetensors_file import tensor_places
from evovlm.merging.checkpoint.safetensors_writer import PlannedTensor, SafetensorsWriter

ARRAYS = {
    "small": np.arange(5, dtype=np.float16),
    "wide": np.arange(6, dtype=np.float64).reshape(2, 3),
    "number": np.array(7, dtype=np.int32),
    "none": np.zeros((0, 4), dtype=np.float32),
    "big": np.arange(100_000, dtype=np.float32).reshape(100, 1000),
    "bytes": np.arange(3, dtype=np.uint8),
}
CODES = {"float16": "F16", "float64": "F64", "float32": "F32", "int32": "I32", "uint8": "U8"}
PLANNED = [
    PlannedTensor(name=name, dtype_code=CODES[str(array.dtype)], shape=array.shape) for name, array in ARRAYS.items()
]


def test_a_file_written_by_threads_in_pieces_is_the_one_that_safetensors_writes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with SafetensorsWriter.create(file, PLANNED) as writer, ThreadPoolExecutor(4) as threads:
        pieces = [
            (name, start, memoryview(array.tobytes())[start : start + 1000])
            for name, array in reversed(ARRAYS.items())
            for start in range(0, array.nbytes, 1000)
        ]
        list(threads.map(lambda piece: writer.write(*piece), pieces))
        offsets = {name: writer.offset(name) for name in ARRAYS}
    assert file.read_bytes() == save(ARRAYS, metadata={"format": "pt"})
    assert offsets == {name: place.start for name, place in tensor_places(file).items()}


def test_an_array_is_written_as_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with SafetensorsWriter.create(file, PLANNED) as writer:
        for name, array in ARRAYS.items():
            writer.write(name, 0, memoryview(array))
    with safe_open(file, "np") as opened:
        for name, array in ARRAYS.items():
            assert np.array_equal(opened.get_tensor(name), array)


@pytest.mark.parametrize(("start", "size"), [(0, 4), (2, 2), (4, 1), (-1, 1)])
def test_what_does_not_fit_into_its_tensor_is_refused(tmp_path: Path, start: int, size: int) -> None:
    with SafetensorsWriter.create(tmp_path / "model.safetensors", PLANNED) as writer:
        with pytest.raises(ValueError, match="bytes has 3 bytes"):
            writer.write("bytes", start, bytes(size))
        with pytest.raises(KeyError):
            writer.write("unknown", 0, b"")


def test_the_file_has_its_full_size_at_once_also_where_none_can_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(safetensors_writer.errno.EOPNOTSUPP, "no such call here")

    with SafetensorsWriter.create(tmp_path / "reserved", PLANNED):
        size_bytes = (tmp_path / "reserved").stat().st_size
    monkeypatch.setattr(safetensors_writer.os, "posix_fallocate", refuse)
    with SafetensorsWriter.create(tmp_path / "sparse", PLANNED):
        assert (tmp_path / "sparse").stat().st_size == size_bytes > 400_000


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        SafetensorsWriter.create(tmp_path / "model.safetensors", PLANNED)
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"
