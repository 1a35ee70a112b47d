"""In a Gaudi image without a card, the applied series is proved; if the plugin is broken, nothing is changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.smoke.conftest import explain, judge
from tests.support import gaudi_image
from tests.support.cli import Done, command, environment, gaudi_patch
from tests.support.environments import Environment, clean_environment
from tests.support.gaudi_image import GaudiImage

pytestmark = pytest.mark.torch

LEVELS = "imports,kernels,engine"
MakeImage = Callable[..., GaudiImage]


@pytest.fixture
def image(lmcache_overlay: Callable[[str], Environment], tmp_path: Path) -> MakeImage:
    """``image(form=..., broken=...)``: a Gaudi image with LMCache in it, unpatched."""

    def make(version: str = "0.5.6", **options: str) -> GaudiImage:
        lmcache_overlay(version)
        return gaudi_image.make(version, tmp_path, **options)

    return make


def _apply(image: GaudiImage, *more: str) -> Done:
    arguments = command("apply", "--python", image.python, "--require", LEVELS, *more, "--json")
    done = subprocess.run(
        arguments, capture_output=True, text=True, env=environment(), cwd="/", timeout=1800, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def _hashes(image: GaudiImage) -> dict[str, str]:
    package = image.environment.site_packages / "lmcache"
    return {
        str(file.relative_to(package)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(package.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.mark.parametrize("form", gaudi_image.FORMS)
def test_all_levels_pass_in_both_modes(image: MakeImage, form: str) -> None:
    done = _apply(image(form=form))
    assert done.code == 0, done.out + done.err
    levels = done.json["data"]["smoke"]
    assert [(one["level"], one["rules"], one["status"], one["device"]) for one in levels] == [
        (level, rules, "passed", "emulated") for level in LEVELS.split(",") for rules in ("lazy", "eager")
    ], done.out


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("import", "libSynapse.so: cannot open shared object file"),
        ("segfault", "killed by SIGSEGV"),
        ("busy", "device is busy"),
    ],
)
def test_a_broken_plugin_is_told_as_that_and_nothing_is_changed(image: MakeImage, broken: str, told: str) -> None:
    made = image(broken=broken)
    before = _hashes(made)
    done = _apply(made)
    assert done.code == 5, done.out + done.err
    assert _hashes(made) == before
    details = "\n".join(detail for error in done.json["errors"] for detail in error["details"])
    assert "habana_frameworks cannot be used" in details
    assert told in details
    assert gaudi_patch("check", "--python", made.python).code == 10


def test_a_broken_plugin_does_not_hinder_a_check_of_the_code_alone(image: MakeImage) -> None:
    done = _apply(image("0.4.2", broken="import"), "--device", "emulated", "--smoke", "imports", "--require", "imports")
    assert done.code == 0, done.out + done.err


def test_other_software_of_habanas_is_no_broken_plugin(image: MakeImage) -> None:
    made = image("0.4.2")
    shutil.rmtree(made.environment.site_packages / "habana_frameworks" / "torch")
    shutil.rmtree(next(made.environment.site_packages.glob("habana_torch_plugin-*")))
    done = _apply(made, "--smoke", "imports", "--require", "imports")
    assert done.code == 0, done.out + done.err


def test_a_host_with_a_real_device_is_not_checked_on_the_emulated_one(image: MakeImage) -> None:
    """The check for a device must reach the real plugin; the emulated one must not answer it."""
    made = image("0.4.2")
    hpu = made.environment.site_packages / "habana_frameworks" / "torch" / "hpu" / "__init__.py"
    hpu.write_text("def is_available():\n    return True\ndef device_count():\n    return 8\n")
    done = gaudi_patch("smoke", "imports", "--device", "emulated", "--python", made.python, "--json")
    assert done.code == 5, done.out
    (level,) = {one["reason"] for one in done.json["data"]["levels"]}
    assert level == "a real HPU is present, which the emulated one must not replace"


# --- as an unprivileged user -----------------------------------------------------------------------------------------


@pytest.fixture
def shared() -> Iterator[Path]:
    """Yield a directory that every user may enter; only the owner may enter pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="gaudi-patch-image-"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("home", ["none", "read-only", "of another user"])
def test_an_unprivileged_user_of_group_0_checks_the_patched_code(
    lmcache_overlay: Callable[[str], Environment], shared: Path, home: str
) -> None:
    """As OpenShift runs an image; the library is compiled once for all levels, in any writable place."""
    lmcache_overlay("0.4.2")
    made = gaudi_image.make("0.4.2", shared)
    assert gaudi_patch("apply", "--no-smoke", "--python", made.python).code == 0
    scratch, folder = shared / "tmp", shared / "home"
    scratch.mkdir()
    scratch.chmod(0o1777)
    folder.mkdir()
    folder.chmod({"none": 0o755, "read-only": 0o555, "of another user": 0o700}[home])
    variables = {**clean_environment(), "TMPDIR": str(scratch), "HOME": str(folder), "COLUMNS": "100"}
    for name in ("HPU_EMULATOR_CACHE", "XDG_CACHE_HOME", *(["HOME"] if home == "none" else [])):
        variables.pop(name, None)
    # The tests' PyTorch may be in root's home: the right to read everything stays, without a right to write.
    kept = ["--securebits=+no_setuid_fixup", "--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    user = ["setpriv", "--reuid=10001", "--regid=0", "--clear-groups", *kept]
    arguments = command("smoke", "imports", "kernels", "--python", made.python, "--require", "imports,kernels")
    done = subprocess.run(
        [*user, *arguments, "--rules", "lazy"],
        env=variables,
        cwd=shared,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(scratch.glob("hpu-emulator-10001/*.so"))) == 1


# --- what LMCache swallows on import ---------------------------------------------------------------------------------


def test_an_extension_that_does_not_load_is_the_first_cause_told_once(
    patched_copy: Callable[[str], Environment],
) -> None:
    """Before: "cannot import name 'device_ops'", up to 22 times per level."""
    environment = patched_copy("0.5.6")
    (extension,) = (environment.site_packages / "lmcache").glob("lmcache_native*.so")
    extension.write_bytes(b"no library" * 1000)
    for result in judge(environment.python, "imports", "kernels", "engine"):
        assert result.status == "failed", explain([result])
        assert len(result.failures) == 1, result.failures
        message = result.failures[0].message
        assert message.startswith("LMCache's extension lmcache.lmcache_native does not load: "), message
        assert "reinstall LMCache 0.5.6" in message


def test_a_module_that_lmcache_goes_on_without_skips_its_levels(patched_copy: Callable[[str], Environment]) -> None:
    environment = patched_copy("0.5.6")
    (environment.site_packages / "_hide.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'numba':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name='numba')\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    (environment.site_packages / "_hide.pth").write_text("import _hide\n")
    for result in judge(environment.python, "imports", "kernels", "engine"):
        assert result.status == "skipped", explain([result])
        assert result.reason.startswith("LMCache's dependency 'numba' is not installed"), result.reason
