"""The runtime added by the patches, on the emulated HPU: each module of inside/ in the mode that it is meant for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("rules", ["lazy", "eager"])
def test_transfers_are_what_the_oracle_says(inside: Callable[[str, str], None], rules: str) -> None:
    inside("test_transfer.py", rules)


@pytest.mark.parametrize("rules", ["lazy", "eager"])
def test_layouts_are_normalised_or_refused_with_the_reason(inside: Callable[[str, str], None], rules: str) -> None:
    inside("test_layout.py", rules)


def test_whole_chunks_are_copied_by_the_device_alone(inside: Callable[[str, str], None]) -> None:
    inside("test_direct.py", "lazy")


def test_memory_is_pinned_up_to_its_limits_and_given_to_one_at_a_time(inside: Callable[[str, str], None]) -> None:
    inside("test_slabs.py", "host")


def test_memory_is_left_to_the_host_and_to_every_control_group(inside: Callable[[str, str], None]) -> None:
    inside("test_headroom.py", "host")


@pytest.mark.parametrize("rules", ["lazy", "eager"])
def test_chunks_travel_between_hosts_with_other_blocks_and_devices(
    inside: Callable[[str, str], None], rules: str
) -> None:
    inside("test_mixed.py", rules)


def test_launches_graphs_copies_and_waits_stay_in_the_budget(inside: Callable[[str, str], None]) -> None:
    inside("test_budget.py", "lazy")


def test_eager_groups_are_compiled_once_where_a_compiler_is_registered(inside: Callable[[str, str], None]) -> None:
    inside("test_compile.py", "eager")


@pytest.mark.parametrize("rules", ["lazy", "eager"])
def test_the_device_rules_of_the_bridge_are_kept(inside: Callable[[str, str], None], rules: str) -> None:
    inside("test_device.py", rules)


def test_requests_are_packed_as_the_oracle_says(inside: Callable[[str, str], None]) -> None:
    inside("test_plan.py", "host")


def test_buffers_are_reused_when_the_device_is_done_with_them(inside: Callable[[str, str], None]) -> None:
    inside("test_staging.py", "host")


def test_what_was_prefetched_is_released_once(inside: Callable[[str, str], None]) -> None:
    inside("test_prefetched.py", "host")


def test_what_cannot_work_is_refused_on_the_hpu(inside: Callable[[str, str], None]) -> None:
    inside("test_guards.py", "lazy")


def test_nothing_is_loaded_where_vllm_gaudi_would_answer_wrongly(inside: Callable[[str, str], None]) -> None:
    inside("test_plugin.py", "lazy")


def test_other_devices_are_left_alone(inside: Callable[[str, str], None]) -> None:
    inside("test_elsewhere.py", "host")
