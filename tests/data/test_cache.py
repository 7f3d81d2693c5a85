"""Nothing stale is ever read from a cache, and nothing half-written is believed."""

from pathlib import Path

import pytest
import torch

from loraloom.data.cache import ContentCache

KEY = "ab" + "0" * 62


def test_tensors_come_back_exactly_in_another_process_life(tmp_path: Path) -> None:
    value = torch.randn(3, 4)
    ContentCache(tmp_path).put(KEY, {"mean": value})
    assert torch.equal(ContentCache(tmp_path).get(KEY)["mean"], value)


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    ContentCache(tmp_path).put(KEY, {"mean": torch.ones(2)})
    (tmp_path / "ab" / f"{KEY}.safetensors").write_bytes(b"half")
    fresh = ContentCache(tmp_path)
    assert torch.equal(fresh.get(KEY, lambda: {"mean": torch.zeros(2)})["mean"], torch.zeros(2))
    assert torch.equal(ContentCache(tmp_path).get(KEY)["mean"], torch.zeros(2))


def test_memory_is_bounded_and_the_disk_keeps_the_rest(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path, memory_bytes=4 * 100 * 3)
    for number in range(10):
        cache.put(f"{number:064d}", {"x": torch.full((100,), float(number))})
    assert len(cache._held) <= 3
    assert all(float(cache.get(f"{number:064d}")["x"][0]) == number for number in range(10))


def test_missing_lists_each_key_once_in_order(tmp_path: Path) -> None:
    cache = ContentCache(tmp_path)
    cache.put(KEY, {"x": torch.ones(1)})
    assert cache.missing(["b", KEY, "a", "b"]) == ["b", "a"]
    with pytest.raises(KeyError):
        cache.get("c")
