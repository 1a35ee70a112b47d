"""Signatures: interchangeable with minisign's in both directions, and no forgery is accepted."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import minisign
import pytest
from packaging.requirements import Requirement

from gaudi_patch.attestation import signing
from gaudi_patch.attestation.against import compare_with
from gaudi_patch.attestation.document import digest
from gaudi_patch.disk import Disk
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.wheel.output import OutputOptions, write
from tests.attestation.conftest import written
from tests.support import patched_wheel
from tests.support.cli import gaudi_patch
from tests.support.tiny import Tiny

PASSWORD = "correct horse"


@dataclass(frozen=True)
class Keys:
    """A minisign key pair in files."""

    secret: Path
    public: Path


def keys(folder: Path, name: str = "key", password: str = "") -> Keys:
    pair = minisign.KeyPair.generate()
    found = Keys(folder / f"{name}.key", folder / f"{name}.pub")
    if password:
        pair.secret_key.encrypt(password, opslimit=32768, memlimit=16777216)
    found.secret.write_bytes(bytes(pair.secret_key) + b"\n")
    found.public.write_bytes(bytes(pair.public_key) + b"\n")
    return found


@pytest.fixture
def pair(tmp_path: Path) -> Keys:
    return keys(tmp_path)


@pytest.fixture
def signed(attested: Tiny, report: Path, pair: Keys) -> Tiny:
    """Return an attested tiny LMCache; its attestation is signed."""
    signing.Signer(pair.secret).sign(report, 1_700_000_000, Disk())
    return attested


def signature(report: Path) -> Path:
    return report.with_name(f"{report.name}.minisig")


def tool() -> str:
    found = shutil.which("minisign")
    if found is None:
        pytest.skip("minisign is not installed (apt-get install minisign)")
    return found


def test_minisign_itself_takes_our_signature(signed: Tiny, report: Path, pair: Keys) -> None:
    done = subprocess.run([tool(), "-V", "-p", pair.public, "-m", report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "file:attestation.json" in done.stdout
    report.write_bytes(report.read_bytes() + b" ")
    done = subprocess.run([tool(), "-V", "-p", pair.public, "-m", report], capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_we_take_the_keys_and_signatures_of_minisign_itself(attested: Tiny, report: Path, tmp_path: Path) -> None:
    made = Keys(tmp_path / "m.key", tmp_path / "m.pub")
    subprocess.run([tool(), "-G", "-W", "-s", made.secret, "-p", made.public], capture_output=True, check=True)
    subprocess.run([tool(), "-S", "-H", "-s", made.secret, "-m", report], capture_output=True, check=True)
    assert "attestation.json" in signing.verify(report, report.read_bytes(), made.public)
    signing.Signer(made.secret).sign(report, 1, Disk())
    assert "timestamp:1" in signing.verify(report, report.read_bytes(), made.public)


def test_check_says_who_signed_and_without_a_key_that_nothing_is_known(signed: Tiny, report: Path, pair: Keys) -> None:
    compared = compare_with(signed.manifest, signed.installation, report, pair.public)
    assert (compared.differences, "timestamp:1700000000" in compared.signed) == ((), True)
    assert compare_with(signed.manifest, signed.installation, report).signed == ""
    from gaudi_patch.commands.check import compared as shown

    text = str(shown(signed.manifest, signed.installation, report).blocks)
    assert "not verified: without --verify-key, anyone could have written it" in text


def edited(report: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the attestation and recompute its own digest."""
    document = written(report)
    edit(document)
    report.write_text(json.dumps({**document, "sha256": digest(document)}))


def swapped_lines(report: Path) -> None:
    """Replace the signature's trusted comment."""
    lines = signature(report).read_text().splitlines()
    lines[2] = "trusted comment: timestamp:1800000000\tfile:attestation.json\thashed"
    signature(report).write_text("\n".join(lines) + "\n")


def of_another_file(report: Path, pair: Keys) -> None:
    """Sign other bytes with the right key, and present that signature as this file's."""
    other = report.with_name("other.json")
    other.write_text("{}")
    signing.Signer(pair.secret).sign(other, 1, Disk()).replace(signature(report))


def by_another_key(report: Path, pair: Keys, *, claim: bool = False) -> None:
    """Sign with a forger's key; with ``claim``, it has the id of the right key."""
    forger = keys(report.parent, "forger")
    if claim:
        secret = minisign.SecretKey.from_file(forger.secret)
        secret._keynum_sk.key_id[:] = minisign.PublicKey.from_file(pair.public)._keynum_pk.key_id
        secret._update_checksum()
        forger.secret.write_bytes(bytes(secret) + b"\n")
    signing.Signer(forger.secret).sign(report, 1, Disk())


def unhashed(report: Path, pair: Keys) -> None:
    """Sign in minisign's old form, which is not bound to a hash of the whole file."""
    secret = minisign.SecretKey.from_file(pair.secret)
    signature(report).write_bytes(bytes(secret.sign(report.read_bytes(), prehash=False)) + b"\n")


#: Forgeries, each with the code of its refusal.
FORGERIES: dict[str, tuple[Callable[[Path, Keys], object], str]] = {
    "a file's hash edited, the digest recomputed": (
        lambda report, _: edited(report, lambda found: found["files"][0].update(after="0" * 64)), "bad-signature"),
    "the smoke results edited, the digest recomputed": (
        lambda report, _: edited(report, lambda found: found["smoke"].update(reason="passed: inference")),
        "bad-signature"),
    "the version edited, the digest recomputed": (
        lambda report, _: edited(report, lambda found: found["package"].update(version="0.5.7")), "bad-signature"),
    "one space more": (lambda report, _: report.write_bytes(report.read_bytes() + b" "), "bad-signature"),
    "no signature": (lambda report, _: signature(report).unlink(), "unsigned"),
    "an empty signature": (lambda report, _: signature(report).write_bytes(b""), "bad-signature"),
    "the signature of another file": (of_another_file, "bad-signature"),
    "a signature by another key": (by_another_key, "bad-signature"),
    "a signature by another key with the right one's id": (
        lambda report, pair: by_another_key(report, pair, claim=True), "bad-signature"),
    "another trusted comment": (lambda report, _: swapped_lines(report), "bad-signature"),
    "a cut signature": (
        lambda report, _: signature(report).write_bytes(signature(report).read_bytes()[:-20]), "bad-signature"),
    "minisign's old form": (unhashed, "bad-signature"),
    "a signature that is a directory": (
        lambda report, _: (signature(report).unlink(), signature(report).mkdir()), "unsigned"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forgery_is_refused_before_anything_in_it_is_believed(
    what: str, signed: Tiny, report: Path, pair: Keys
) -> None:
    forge, code = FORGERIES[what]
    compare_with(signed.manifest, signed.installation, report, pair.public)
    forge(report, pair)
    with pytest.raises(GaudiPatchError) as refused:
        compare_with(signed.manifest, signed.installation, report, pair.public)
    assert refused.value.code == code
    assert int(refused.value.exit) == 1


def test_without_a_key_an_edited_attestation_passes_and_says_that_nobody_vouches_for_it(
    signed: Tiny, report: Path
) -> None:
    """The reason for keys: the digest is not a signature."""
    edited(report, lambda found: found["smoke"].update(reason="passed: inference"))
    assert compare_with(signed.manifest, signed.installation, report).fault is None


@pytest.mark.parametrize("given", ["missing", "the secret key", "text", "a directory"])
def test_a_key_that_is_none_is_a_usage_error(given: str, signed: Tiny, report: Path, pair: Keys) -> None:
    key = report.with_name("given")
    if given == "a directory":
        key.mkdir()
    elif given != "missing":
        key.write_bytes(pair.secret.read_bytes() if given == "the secret key" else b"text\n")
    with pytest.raises(GaudiPatchError) as refused:
        compare_with(signed.manifest, signed.installation, report, key)
    assert (int(refused.value.exit), refused.value.code) == (2, "bad-key")
    with pytest.raises(GaudiPatchError) as refused:
        signing.Signer(key if given != "the secret key" else pair.public)
    assert refused.value.code == "bad-key"


def test_an_encrypted_key_takes_its_password_from_the_environment(attested: Tiny, report: Path, tmp_path: Path) -> None:
    locked = keys(tmp_path, "locked", PASSWORD)
    for environ, word in (({}, "is encrypted"), ({signing.PASSWORD: "wrong"}, "wrong password")):
        with pytest.raises(GaudiPatchError) as refused:
            signing.Signer(locked.secret, environ)
        assert refused.value.code == "bad-key"
        assert word in refused.value.message
    signing.Signer(locked.secret, {signing.PASSWORD: PASSWORD}).sign(report, 1, Disk())
    assert signing.verify(report, report.read_bytes(), locked.public)


def test_the_command_signs_verifies_and_refuses(attested: Tiny, report: Path, pair: Keys, tmp_path: Path) -> None:
    bom = tmp_path / "bom.json"
    done = gaudi_patch("attest", report, "--cyclonedx", bom, "--sign-key", pair.secret, "--json")
    assert done.code == 0, done
    assert [Path(path).name for path in done.json["data"]["written"]] == [
        "bom.json", "attestation.json.minisig", "bom.json.minisig",
    ]  # fmt: skip
    done = gaudi_patch("attest", report, "--verify-key", pair.public)
    assert (done.code, "signature verified" in done.out) == (0, True)
    report.write_bytes(report.read_bytes() + b"\n")
    done = gaudi_patch("attest", report, "--verify-key", pair.public, "--json")
    assert (done.code, done.code_of_error) == (1, "bad-signature")


def test_a_wheel_and_its_proof_are_signed_each_in_a_file_of_its_own(tmp_path: Path, pair: Keys) -> None:
    release = patched_wheel.release(tmp_path / "r")
    signer = signing.Signer(pair.secret)
    (one,) = write(release.manifest, [release.wheel], OutputOptions(tmp_path / "out", signer=signer)).wheels
    for path in (one.path, *(path for path in one.beside if path.suffix != ".minisig")):
        assert path.name in signing.verify(path, path.read_bytes(), pair.public)


def test_without_the_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch, pair: Keys) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minisign", None)
    with pytest.raises(GaudiPatchError) as refused:
        signing.Signer(pair.secret)
    assert refused.value.code == "no-signing-library"
    (line,) = re.findall(r"`([^`]+)`", refused.value.hint)
    assert shlex.split(line) == [sys.executable, "-m", "pip", "install", signing.REQUIREMENT]
    (extra,) = [one for one in requires("gaudi-patch") or [] if re.search(r"extra == .sign.", one)]
    assert Requirement(extra).name == Requirement(signing.REQUIREMENT).name
    assert Requirement(extra).specifier == Requirement(signing.REQUIREMENT).specifier
