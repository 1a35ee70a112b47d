"""The lines that lead LMCache to its patched parts, where no engine and no vLLM is needed to walk them.

Each is called as LMCache calls it. A release that has a part at all must have its line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gaudi_patch.smoke.probes import _environment, _probe
    from gaudi_patch.smoke.probes._kv import device as kv_device
    from gaudi_patch.smoke.probes._kv import lmcache as kv_lmcache
    from gaudi_patch.smoke.probes._probe import Foreign
else:  # run by path, below the probe
    import _environment
    import _probe
    from _kv import device as kv_device
    from _kv import lmcache as kv_lmcache


def check_routes(probe: _probe.Probe) -> None:
    """All of them."""
    release = kv_lmcache.release()
    if release >= (0, 4, 3):  # before, the statistics know CUDA only and say nothing on other devices
        with probe.section("usage statistics"):
            _statistics(probe)
    if release >= (0, 5, 6):
        with probe.section("the device's own synchronize"):
            _synchronize(probe)
    if release >= (0, 3, 14):
        with probe.section("an engine that does not start"):
            _degraded(probe)
    if release >= (0, 3, 9) or _environment.installed("vllm"):  # 0.3.7 imports vLLM for its lookups
        with probe.section("lookups by Mooncake's client"):
            _mooncake(probe)
    with probe.section("images in the keys"):
        _images(probe)


def _statistics(probe: _probe.Probe) -> None:
    described = _probe.load("lmcache.gaudi.device").describe_device()
    before = kv_device.holds_a_card()
    if kv_lmcache.release() >= (0, 5, 2):
        found = _probe.load("lmcache.usage_telemetry.env_probe")._get_gpu_info()
    else:
        context = _probe.load("lmcache.usage_context").UsageContext
        found = context._get_gpu_info(object.__new__(context))
    probe.check(tuple(found) == described, f"the device is reported as {found}, not as {described}")
    if before is False:
        probe.check(kv_device.holds_a_card() is False, "usage statistics take a card from the workers")


def _synchronize(probe: _probe.Probe) -> None:
    torch, platform = _probe.load("torch"), _probe.load("lmcache.v1.platform")
    with kv_device.counting() as counts:
        platform.synchronize_device(torch.device("hpu"))
    if "device_syncs" in counts:
        probe.check(counts["device_syncs"] == 1, f"the device was waited for {counts['device_syncs']} times, not once")


def _degraded(probe: _probe.Probe) -> None:
    """LMCache would go on without a cache, and vLLM would not know."""
    manager: Foreign = _probe.load("lmcache.v1.manager").LMCacheManager
    refusal = _probe.load("lmcache.gaudi.guards").GaudiError

    class Broken:
        def __getattr__(self, name: str) -> Foreign:
            raise OSError("put in on purpose")

    half: Foreign = object.__new__(manager)
    half._lmcache_engine = None
    starts: dict[str, Callable[[], object]] = {
        "while its parts are made": lambda: manager(*([Broken()] * _parameters(manager))),
        "behind them": lambda: half._handle_post_init_failure(OSError("put in on purpose")),
    }
    for what, start in starts.items():
        try:
            start()
        except refusal as error:
            probe.check("failed to initialise" in str(error), f"{what}: {error}")
        except Exception as error:
            probe.fail(f"{what}: ended by {_probe.describe(error)}, and not by what was wrong")
        else:
            probe.fail(f"LMCache goes on without a cache after an error {what}")


def _parameters(kind: type) -> int:
    found = list(inspect.signature(kind).parameters.values())
    return sum(
        parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        for parameter in found
    )


def _mooncake(probe: _probe.Probe) -> None:
    """Its keys are made from the request's configuration, too, where the identity is."""
    client = _probe.load("lmcache.v1.lookup_client.mooncake_lookup_client").MooncakeLookupClient
    asked: list[Foreign] = []

    def process_tokens(tokens: Foreign, **more: Foreign) -> Iterator[Foreign]:
        asked.append(more.get("request_configs"))
        return iter(())

    instance = object.__new__(client)
    instance.token_database = SimpleNamespace(process_tokens=process_tokens)
    instance.store = SimpleNamespace(batch_is_exist=lambda keys: [], batch_isExist=lambda keys: [])
    tagged = {"lmcache.tag.identity": "one's own"}
    instance.lookup([1, 2, 3], lookup_id="smoke", request_configs=tagged)
    probe.check(asked == [tagged], f"keys are made without the identity: {asked}")


def _images(probe: _probe.Probe) -> None:
    """Two images whose hashes begin alike have other keys: 16 bits, as some releases keep, tell 65,536 apart."""
    torch = _probe.load("torch")
    utils = _probe.load("lmcache.integration.vllm.utils")
    place = [SimpleNamespace(offset=1, length=4)]
    keys = []
    for image in ("a" * 60 + "0001", "b" * 60 + "0001", "0001" + "a" * 60, "0001" + "b" * 60):
        tokens = torch.arange(6)
        utils.apply_mm_hashes_to_token_ids(tokens, [image], place)
        probe.check(tokens[0] == 0 and tokens[5] == 5, f"tokens beside the image are changed: {tokens.tolist()}")
        keys.append(tuple(tokens.tolist()))
    probe.check(len(set(keys)) == len(keys), f"images have one another's keys: {keys}")
