"""The abilities of an LMCache release on Gaudi, as far as configurations depend on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from packaging.version import Version

from gaudi_patch.engine.situation import given
from gaudi_patch.errors import refused
from gaudi_patch.series import pairs
from gaudi_patch.series.manifest import Manifest, Series
from gaudi_patch.target.installation import Target
from gaudi_patch.target.invocation import command_line

#: Longest key that LMCache's lm:// protocol accepts, in all releases (lmcache/v1/protocol.py, MAX_KEY_LENGTH).
LM_KEY_LENGTH = 150


class Release(NamedTuple):
    """An LMCache release, and the vllm-gaudi that pairs with it.

    ``builtin_agrees`` tells whether processes of the Python that runs it agree on the keys of ``builtin`` (None:
    unknown). ``files`` maps each file that the series changes to its patched sha256 (None: removed).
    """

    version: str
    capabilities: frozenset[str]
    builtin_agrees: bool | None
    vllm_gaudi: str
    files: Mapping[str, str | None] = {}

    def before(self, version: str) -> bool:
        """Return whether this release is older than ``version``."""
        return Version(self.version) < Version(version)

    @property
    def hash_algorithm(self) -> str:
        """Return the hash algorithm of keys.

        sha256_cbor gives the same key in every process. From 0.11 on, vLLM returns it as bytes, which LMCache before
        0.3.13 cannot write into a key (lmcache/utils.py, ``{self.chunk_hash:x}``).
        """
        return "builtin" if self.before("0.3.13") else "sha256_cbor"

    @property
    def has_redis_plugin(self) -> bool:
        """Return whether remote_storage_plugins accepts "redis".

        See lmcache/v1/storage_backend/connector/redis_adapter.py.
        """
        return not self.before("0.4.6")

    @property
    def hash_digits(self) -> int:
        """Return the hexadecimal digits of a hash in a key: from 0.4.6 on, sha256 is folded to 64 bits."""
        return 64 if self.hash_algorithm != "builtin" and self.before("0.4.6") else 16


def known(
    manifest: Manifest, series: Series | None, version: str, builtin_agrees: Callable[[], bool | None]
) -> Release:
    """Return the release ``version``, with the capabilities of its series, or all if upstream needs no series.

    ``builtin_agrees`` is called only for a release that has no other keys. Raises a refusal if no vllm-gaudi pairs with
    the release.
    """
    fitting = pairs.fitting(manifest, version)
    if not fitting:
        why = f" {series.notes}" if series is not None and series.notes else ""
        raise refused(
            "no-pair",
            f"no vllm-gaudi works with LMCache {version}, so no mode does.{why}",
            f"see `{command_line('list', target=Target(), manifest=given(manifest))}`",
        )
    capabilities = series.capabilities if series is not None else tuple(manifest.capabilities)
    files = {} if series is None else {name: file.after for name, file in manifest.locked_files(series).items()}
    release = Release(version, frozenset(capabilities), None, pairs.vllm_gaudi(fitting, notes=True), files)
    return release._replace(builtin_agrees=builtin_agrees()) if release.hash_algorithm == "builtin" else release


def refuse_private_keys(release: Release, what: str) -> None:
    """Refuse processes that share a cache if each would name the same chunk differently.

    Keys of these releases contain ``hash(None)``, which is an address before Python 3.12. The address differs between
    processes whatever PYTHONHASHSEED says, unless that Python was built for fixed addresses.
    """
    if release.hash_algorithm == "builtin" and release.builtin_agrees is False:
        raise refused(
            "keys-differ",
            f"{what} with LMCache {release.version}: its keys contain hash(None), which differs between processes of "
            f"the target's Python (measured; before Python 3.12 it is an address), so none would find what another one "
            f"stored",
            "use LMCache 0.3.13 or later, or Python 3.12",
        )


def refuse_long_keys(release: Release, model: str, ranks: int) -> None:
    """Refuse a model whose keys are too long for the lm:// protocol: the first store would fail."""
    # vllm@model@world_size@rank@hash@dtype; before 0.3.9.post2 without the dtype, later without the engine's name.
    key = f"vllm@{model}@{ranks}@{ranks - 1}@{'f' * release.hash_digits}@float8_e4m3fn"
    if len(key) > LM_KEY_LENGTH:
        raise refused(
            "key-too-long",
            f"keys of model {model!r} would have {len(key)} characters, but lm:// accepts {LM_KEY_LENGTH}",
            "serve the model from a shorter path, or use a shared directory: --storage DIR",
        )


def refuse_multiprocess(release: Release) -> None:
    """Refuse multiprocess mode in releases where it cannot work on HPU."""
    if "mp-engine-driven" in release.capabilities:
        return
    if release.before("0.3.10"):
        reason = "it has none"
    elif release.before("0.4.6"):
        reason = "its server reads device memory by CUDA's IPC handles, which HPU memory does not have"
    else:
        reason = "it does not accept a (key, value) pair of caches, which is what vllm-gaudi passes"
    raise refused(
        "mode-refused",
        f"LMCache {release.version} has no multiprocess mode that works on HPU: {reason}",
        "use LMCache 0.5.5 or later, or another mode",
    )
