"""slabs.py on the host: what is pinned, for whom, up to which limit, and the message when pinning ends."""

from __future__ import annotations

import atexit
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lmcache.gaudi import headroom, pinning
from lmcache.gaudi import slabs as module
from lmcache.gaudi.device import HostBackend
from lmcache.gaudi.settings import Settings
from lmcache.gaudi.slabs import Slabs, hold, pin_settings, release

SIZE = 1 << 20


class Host(HostBackend):
    """A host that pins ``most`` allocations, then fails in one way or the other."""

    def __init__(self, most: int = 1000, failure: Exception | None = None) -> None:
        super().__init__()
        self.most, self.failure, self.asked = most, failure, 0

    def pinned(self, nbytes: int) -> torch.Tensor:
        self.asked += 1
        if self.asked > self.most and self.failure is not None:
            raise self.failure
        return super().pinned(nbytes)

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return self.asked <= self.most


def make(limit: int = 8 * SIZE, backend: Host | None = None, **others: Any) -> tuple[Slabs, list[str], list[str]]:
    said: list[str] = []
    warned: list[str] = []
    values = {"pinned": None, "ahead": 0, "lock": threading.RLock(), "report": said.append, "warn": warned.append}
    slabs = Slabs(limit, **(values | others))
    slabs.serve(SIZE, backend or Host())
    return slabs, said, warned


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def wait_until_pinned(slabs: Slabs, nbytes: int) -> None:
    assert eventually(lambda: slabs.pinned_bytes == nbytes)


def test_only_whole_chunks_get_a_slab_and_a_free_one_is_used_again() -> None:
    slabs, _, _ = make()
    assert slabs.take(SIZE // 2) is None
    first = slabs.take(SIZE)
    second = slabs.take(SIZE)
    assert first is not None and second is not None and first.address != second.address
    slabs.give(first)
    assert slabs.take(SIZE) is first
    assert slabs.pinned_bytes == 2 * SIZE


def test_a_slab_is_known_by_its_first_byte_alone_and_while_an_object_lies_in_it() -> None:
    slabs, _, _ = make()
    slab = slabs.take(SIZE)
    assert slab is not None
    assert hold(slab.buffer) is slab
    release(slab)
    assert hold(slab.buffer[1:]) is None
    assert hold(slab.buffer[:100]) is slab
    release(slab)
    assert hold(slab.buffer[::2]) is None
    assert hold(torch.empty(SIZE, dtype=torch.uint8)) is None
    slabs.give(slab)
    assert hold(slab.buffer) is None


def test_what_is_held_goes_to_nobody_until_it_is_released() -> None:
    slabs, _, _ = make()
    slab = slabs.take(SIZE)
    assert slab is not None
    hold(slab.buffer)
    hold(slab.buffer)
    slabs.give(slab)
    assert slabs.take(SIZE) is not slab
    release(slab)
    assert slabs.take(SIZE) is not slab
    release(slab)
    assert slabs.take(SIZE) is slab


@pytest.mark.parametrize("failure", [None, RuntimeError("synHostMalloc: no memory"), MemoryError()])
def test_pinning_that_fails_at_the_nth_object_is_said_once_with_the_settings(failure: Exception | None) -> None:
    backend = Host(3, failure)
    slabs, _, warned = make(backend=backend)
    got = [slabs.take(SIZE) for _ in range(6)]
    assert [slab is not None for slab in got] == [True] * 3 + [False] * 3
    assert backend.asked == 4  # no further attempts
    assert slabs.pinned_bytes == 3 * SIZE
    (text,) = warned
    for word in ("memlock", "LMCACHE_GAUDI_PIN_MIB", "max_local_cpu_size", "3 of 8 MiB"):
        assert word in text
    assert str(failure or "did not pin") in text
    # Pinned memory stays in use.
    assert got[0] is not None
    slabs.give(got[0])
    assert slabs.take(SIZE) is got[0]


def test_a_pool_that_shrinks_forgets_the_addresses_that_it_gives_back() -> None:
    slabs, _, _ = make(limit=4 * SIZE)
    taken = [slabs.take(SIZE) for _ in range(4)]
    addresses = [slab.address for slab in taken if slab]
    for slab in taken:
        assert slab is not None
        slabs.give(slab)
    others = [slabs.plain(SIZE // 2) for _ in range(5)]
    assert slabs.pinned_bytes + slabs.plain_bytes <= slabs.limit
    assert slabs.pinned_bytes == SIZE
    assert len([one for one in addresses if one in module._KNOWN]) == 1
    assert all(hold(tensor) is None for tensor in others)
    # Memory that was in use is not returned.
    assert slabs.take(SIZE) in taken


def test_slabs_in_use_are_never_dropped() -> None:
    slabs, _, _ = make(limit=4 * SIZE)
    taken = [slabs.take(SIZE) for _ in range(4)]
    slabs.plain(SIZE)  # more than LMCache would ever ask for
    assert all(slab is not None and hold(slab.buffer) is slab for slab in taken)


def test_no_more_is_pinned_than_the_setting_allows() -> None:
    slabs, _, warned = make(pinned=2 * SIZE)
    assert [slabs.take(SIZE) is not None for _ in range(4)] == [True, True, False, False]
    assert warned == []


def test_the_thread_keeps_slabs_ready_says_so_and_ends_with_the_pool() -> None:
    slabs, said, _ = make(ahead=3 * SIZE)
    thread = slabs._thread
    assert thread is not None
    assert eventually(lambda: slabs.pinned_bytes == 3 * SIZE)
    assert "kept ready" in said[0] and "one by one" in said[0]
    first = slabs.take(SIZE)
    assert first is not None
    assert eventually(lambda: slabs.pinned_bytes == 4 * SIZE)
    slabs.close()
    assert not thread.is_alive()
    assert slabs.take(SIZE) is None
    slabs.give(first)
    assert slabs.pinned_bytes == 0


def test_a_pool_that_nobody_closes_ends_its_thread_too() -> None:
    slabs, _, _ = make(ahead=SIZE)
    thread = slabs._thread
    assert thread is not None
    wait_until_pinned(slabs, SIZE)
    del slabs
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_closing_one_pool_leaves_the_thread_of_another_to_be_stopped_at_the_end() -> None:
    first, _, _ = make(ahead=SIZE)
    second, _, _ = make(ahead=SIZE)
    first.close()
    thread = second._thread
    assert thread is not None and thread.is_alive()
    atexit._run_exitfuncs()
    assert not thread.is_alive()


def test_a_block_that_is_freed_while_another_is_pinned_does_not_stand_still() -> None:
    def pin_while_freeing() -> None:
        with pinning._lock:  # the garbage collector may run while the lock is held
            pinning._forget(0)

    thread = threading.Thread(target=pin_while_freeing, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_memory_that_the_host_needs_is_not_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headroom, "rooms", lambda: [("the control group (memory.max)", 100 * SIZE, 5 * SIZE)])
    slabs, _, warned = make()
    assert slabs.take(SIZE) is None
    assert "the control group (memory.max) has 5 MiB left of 100" in warned[0]
    # When memory becomes available, pinning resumes after a while.
    monkeypatch.setattr(headroom, "rooms", list)
    assert slabs.take(SIZE) is None
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert slabs.take(SIZE) is not None
    assert len(warned) == 1


def test_what_is_left_is_read_from_the_host() -> None:
    rooms = list(headroom.rooms())
    assert rooms
    assert all(total > 0 and room <= total for _, total, room in rooms)


def test_settings_are_read_and_others_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pin_settings() == (None, 1 << 30)
    monkeypatch.setenv("LMCACHE_GAUDI_PIN_MIB", "0")
    monkeypatch.setenv("LMCACHE_GAUDI_PIN_AHEAD_MIB", "64")
    assert pin_settings() == (0, 64 << 20)
    monkeypatch.setenv("LMCACHE_GAUDI_PIN_MIB", "a lot")
    with pytest.raises(ValueError, match="LMCACHE_GAUDI_PIN_MIB='a lot'"):
        pin_settings()


def test_no_size_of_the_transfer_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.from_environment() == Settings()
    for text, warm_up in (("0", False), ("1", True)):
        monkeypatch.setenv("LMCACHE_GAUDI_WARMUP", text)
        assert Settings.from_environment().warm_up is warm_up
    for name in ("WARMUP", "GROUP", "STAGING_MIB", "RING_MIB", "COPY_THREADS"):
        with monkeypatch.context() as one:
            one.setenv(f"LMCACHE_GAUDI_{name}", "false")
            with pytest.raises(ValueError, match=f"LMCACHE_GAUDI_{name}='false'"):
                Settings.from_environment()


class Slow(Host):
    """A backend that pins the first block at once, and each later block only when released."""

    def __init__(self) -> None:
        super().__init__()
        self.pinning, self.go = threading.Event(), threading.Event()

    def pinned(self, nbytes: int) -> torch.Tensor:
        if self.asked:
            self.pinning.set()
            assert self.go.wait(60)
        return super().pinned(nbytes)


def test_nobody_waits_for_memory_that_is_pinned_for_another() -> None:
    backend = Slow()
    slabs, _, _ = make(limit=3 * SIZE, backend=backend)
    first = slabs.take(SIZE)
    assert first is not None
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(slabs.take(SIZE)), daemon=True)
    waiting.start()
    assert backend.pinning.wait(60)

    def others() -> None:
        slab = hold(first.buffer)
        slabs.give(first)
        assert slab is not None
        release(slab)
        assert slabs.take(SIZE) is first
        slabs.plain(SIZE // 2)
        done.set()

    done = threading.Event()
    threading.Thread(target=others, daemon=True).start()
    passed = done.wait(10)  # times out only on failure
    # Memory being pinned counts already: the limit covers both.
    assert slabs.pinned_bytes == 2 * SIZE
    backend.go.set()
    waiting.join(60)
    assert passed, "a transfer waits for memory that is pinned for another"
    assert len(taken) == 1 and taken[0] is not first and taken[0].used
    assert hold(taken[0].buffer) is taken[0]


def test_the_last_of_the_room_is_waited_for_where_it_is_being_pinned_ahead() -> None:
    backend = Slow()
    slabs, _, warned = make(limit=2 * SIZE, ahead=2 * SIZE, backend=backend)
    assert backend.pinning.wait(60)  # the thread has one, and pins the other
    first = slabs.take(SIZE)
    assert first is not None
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(slabs.take(SIZE)), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert not taken, "an object went without the memory that was being pinned for the pool"
    backend.go.set()
    waiting.join(60)
    assert taken[0] is not None and taken[0] is not first
    assert slabs.take(SIZE) is None
    assert slabs.pinned_bytes == 2 * SIZE
    assert warned == []


def test_where_the_last_of_the_room_cannot_be_pinned_nobody_waits_for_ever() -> None:
    class Refusing(Slow):
        def pinned(self, nbytes: int) -> torch.Tensor:
            tensor = super().pinned(nbytes)
            if self.asked > 1:
                raise RuntimeError("synHostMalloc: no memory")
            return tensor

    backend = Refusing()
    slabs, _, _ = make(limit=2 * SIZE, ahead=2 * SIZE, backend=backend)
    assert backend.pinning.wait(60)
    assert slabs.take(SIZE) is not None
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(slabs.take(SIZE)), daemon=True)
    waiting.start()
    backend.go.set()
    waiting.join(60)
    assert taken == [None]
    assert slabs.pinned_bytes == SIZE


def test_memory_that_is_pinned_while_the_pool_is_closed_goes_with_its_object() -> None:
    backend = Slow()
    slabs, _, _ = make(backend=backend)
    assert slabs.take(SIZE) is not None
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(slabs.take(SIZE)), daemon=True)
    waiting.start()
    assert backend.pinning.wait(60)
    slabs.close()
    backend.go.set()
    waiting.join(60)
    slabs.give(taken[0])
    assert slabs.pinned_bytes == SIZE  # the first, whose object is alive
    assert hold(taken[0].buffer) is None


def test_six_threads_never_share_a_slab() -> None:
    slabs, _, _ = make(limit=16 * SIZE, ahead=4 * SIZE)
    wrong: list[str] = []

    def work(mark: int) -> None:
        for turn in range(200):
            slab = slabs.take(SIZE)
            if slab is None:
                continue
            slab.buffer[:64].fill_(mark)
            held = hold(slab.buffer) if turn % 3 == 0 else None
            if not bool((slab.buffer[:64] == mark).all()):
                wrong.append(f"thread {mark}")
            slabs.give(slab)
            if held is not None:
                if not bool((slab.buffer[:64] == mark).all()):
                    wrong.append(f"held by thread {mark}")
                release(held)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slabs.close()
    assert wrong == []
    assert slabs.pinned_bytes == 0
