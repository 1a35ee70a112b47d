"""Each error that LMCache's extensions raise on load gets advice."""

from __future__ import annotations

import pytest

from gaudi_patch.inside import first_cause

REPLACE_COLD = "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE15_M_replace_coldEPcmPKcmm"


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (f"native.so: undefined symbol: {REPLACE_COLD}", "newer libstdc++"),
        ("/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by native.so)", "newer libstdc++"),
        ("/lib/libc.so.6: version `GLIBC_2.38' not found (required by native.so)", "newer C library"),
        ("native.so: undefined symbol: _ZN3c106detail14torchCheckFailEPKcS2_jRKSs", "another PyTorch"),
        ("native.so: undefined symbol: _ZN2at6Tensor4viewEv", "another PyTorch"),
        ("libhiredis.so.1: cannot open shared object file: No such file or directory", "install the library"),
        ("native.so: invalid ELF header", "reinstall"),
    ],
)
def test_the_advice_follows_what_the_loader_says(message: str, advice: str) -> None:
    assert advice in first_cause._advice(message)
