"""Checks that processes sharing a cache compute the same keys; otherwise none finds another's chunks."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown


def _sharing(case: Case) -> str:
    """Return why several processes must agree on keys; "" if one process keeps them to itself."""
    values = case.settings.values
    if values.get("remote_url") or values.get("remote_storage_plugins"):
        return "a remote store is shared with other processes"
    if values.get("enable_pd"):
        return "prefill and decode are two processes"
    if case.arguments is not None and case.arguments.connector == "LMCacheMPConnector":
        return "the cache is in a server's process"
    if case.ranks is not None and case.ranks > 1:
        return f"{case.ranks} ranks and the scheduler look up the same keys"
    return ""


@check(
    "env.hash-seed",
    "PYTHONHASHSEED",
    why="without it vLLM seeds each process's chain of keys at random: no process finds what another one stored",
    source=sources.vllm("v1/core/kv_cache_utils.py") + " (init_none_hash)",
    needs=("running", "settings"),
)
def hash_seed(case: Case) -> Answer:
    value, sharing = case.environ.get("PYTHONHASHSEED"), _sharing(case)
    if value is not None and value.isdigit():
        return ok(f"PYTHONHASHSEED={value}; it has to be the same for every process that shares the cache")
    if sharing:
        return failure(
            f"PYTHONHASHSEED is {value or 'not set'}, and {sharing}", "export PYTHONHASHSEED=0 in every process"
        )
    if case.ranks is None:
        return unknown("not set; needed with several ranks", "give the command line with --vllm-args")
    return ok("not set, and not needed: only one process uses the keys")


@check(
    "config.hash-algorithm",
    "pre_caching_hash_algorithm",
    why="builtin is Python's hash(), and keys contain None, whose hash is its address before Python 3.12: keys differ "
    "between processes whatever PYTHONHASHSEED is, unless the interpreter was built for fixed addresses",
    source=sources.lmcache("v1/token_database.py") + "; https://github.com/python/cpython/pull/99541",
    needs=("settings",),
)
def hash_algorithm(case: Case) -> Answer:
    name, sharing = case.settings.values.get("pre_caching_hash_algorithm"), _sharing(case)
    if name is None:
        return ok("this LMCache has only one algorithm")
    if name != "builtin":
        return _digest(case, str(name), sharing)
    if case.arguments is not None and case.arguments.connector == "LMCacheMPConnector":
        return ok("not used: LMCache's server computes the keys with its own --hash-algorithm")
    if not sharing:
        return ok("builtin, and only one process uses the keys")
    agree = case.processes_agree_on_none
    if agree is None:
        return unknown(f"builtin, and {sharing}; whether processes agree cannot be measured here", _stable_keys(case))
    if not agree:
        return failure(f"builtin, and {sharing}; processes of the target's Python do not agree", _stable_keys(case))
    return ok("builtin, and processes of the target's Python agree (measured), with one PYTHONHASHSEED")


def _digest(case: Case, name: str, sharing: str) -> Answer:
    """Judge another algorithm than builtin: vLLM's digests are bytes, which old releases cannot write into a store."""
    stored = sharing or ("local_disk is used" if case.settings.values.get("local_disk") else "")
    vllm = case.version("vllm")
    if not (stored and name.startswith("sha256") and _writes_numbers_only(case)) or (vllm and vllm < Version("0.11")):
        return ok(name)
    return failure(
        f"{name}, and {stored}: this LMCache cannot write such keys, and stores nothing there",
        "pre_caching_hash_algorithm: builtin; or LMCache 0.3.13 or later",
    )._replace(why="vLLM computes these keys as bytes from 0.11 on; LMCache before 0.3.13 writes keys as numbers")


def _writes_numbers_only(case: Case) -> bool:
    try:
        return Version(getattr(case.lmcache, "version", None) or "") < Version("0.3.13")
    except InvalidVersion:
        return False


def _stable_keys(case: Case) -> str:
    if _writes_numbers_only(case):
        # vLLM's sha256_cbor returns bytes from 0.11 on; LMCache before 0.3.13 formats keys as numbers: TypeError.
        return "use Python 3.12 or later: this LMCache cannot write the keys of sha256_cbor with vLLM 0.11"
    return "pre_caching_hash_algorithm: sha256_cbor, in every process"


CHECKS = (hash_seed, hash_algorithm)
