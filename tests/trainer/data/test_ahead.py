"""The next batch is on its way while one is computed; nothing is read further ahead, nothing lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from open_diht.trainer.data.ahead import ToDevice, one_ahead


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_a_copy_begins_before_the_batch_before_it_is_handed_out(n: int) -> None:
    done: list[str] = []

    def source() -> Iterator[int]:
        for number in range(n):
            done.append(f"read {number}")
            yield number

    def begin(number: int) -> int:
        done.append(f"copy {number}")
        return number

    for number in one_ahead(source(), begin, lambda number: done.append(f"wait {number}")):
        done.append(f"step {number}")
    expected = ["read 0", "copy 0"] if n else []
    for number in range(n):
        following = [f"read {number + 1}", f"copy {number + 1}"] if number + 1 < n else []
        expected += [f"wait {number}", *following, f"step {number}"]
    assert done == expected


def test_an_error_of_a_batch_comes_through() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(one_ahead(source(), lambda number: number, lambda number: None))


def test_a_cpu_gets_them_as_they_come() -> None:
    batches = iter([(torch.ones(1), "none bad")])
    assert ToDevice(torch.device("cpu"))(batches) is batches
