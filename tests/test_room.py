"""How much room there is."""

from pathlib import Path

import pytest

from evovlm import resources as room
from evovlm.resources import available_memory_bytes, device_number, free_disk_bytes


def test_a_folder_yet_to_be_made_is_on_the_disk_of_the_one_above(tmp_path: Path) -> None:
    free = free_disk_bytes(tmp_path / "not" / "yet")
    assert free is not None
    assert free > 0
    assert device_number(tmp_path / "not" / "yet") == tmp_path.stat().st_dev


def test_a_container_s_limit_counts_where_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CGROUP", tmp_path)
    machine = available_memory_bytes()
    assert machine is not None
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert available_memory_bytes() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes() != 3000
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "none")
    assert available_memory_bytes() is not None
