"""Each process knows the lock under which it works in a folder."""

from __future__ import annotations

from open_diht.common.lease import Fence
from open_diht.pipelines.store.fencing import check_fence, set_fence, token_of
from open_diht.pipelines.store.storage import store_path


class Later(Fence):
    """A fence during whose check another thread begins to work in another folder."""

    def check(self) -> None:
        set_fence(store_path("memory://other"), Fence(token=2))


def test_another_thread_may_begin_to_work_in_a_folder_during_a_check() -> None:
    one, other = store_path("memory://one"), store_path("memory://other")
    set_fence(one, Later(token=1))
    try:
        check_fence(one / "file")
        assert (token_of(one), token_of(other)) == (1, 2)
    finally:
        set_fence(one, None)
        set_fence(other, None)
    assert token_of(one) == token_of(other) == 0
