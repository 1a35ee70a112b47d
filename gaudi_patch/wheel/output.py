"""Wheels and their proofs on disk: staged, proved, and put in place together.

A file with the same name and different content is never replaced: installers cache the first build of a version.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from gaudi_patch.attestation import cyclonedx, document, file, forms, intoto
from gaudi_patch.attestation.signing import Signer
from gaudi_patch.disk import Disk, environment_error
from gaudi_patch.engine import layout
from gaudi_patch.errors import Exit, GaudiPatchError, refused
from gaudi_patch.opening import is_file, is_there
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.smoke.checks import SmokeOptions
from gaudi_patch.wheel.build import BuildOptions, BuiltWheel, build
from gaudi_patch.wheel.patched import digest_of

if TYPE_CHECKING:
    from gaudi_patch.wheel.prove import WheelProof

REPORT = ".attestation.json"


@dataclass(frozen=True)
class OutputOptions:
    """The output directory, the files written beside the wheels, and the proof required first.

    ``report``: write the attestation, in-toto statement and CycloneDX document. ``smoke`` needs ``python`` and runs
    with its packages.
    """

    out: Path
    build: BuildOptions = field(default_factory=BuildOptions)
    report: bool = False
    signer: Signer | None = None
    smoke: SmokeOptions | None = None
    python: Path | None = None
    disk: Disk = field(default_factory=Disk)


class Written(NamedTuple):
    """A wheel in its final place. ``changed``: it was not there before. ``beside``: its reports and signatures."""

    path: Path
    wheel: BuiltWheel
    changed: bool
    beside: tuple[Path, ...]


class Output(NamedTuple):
    """All wheels of a run, and the proof of one of them (None: no smoke checks requested)."""

    wheels: tuple[Written, ...]
    proof: WheelProof | None


def write(manifest: Manifest, wheels: Sequence[Path], options: OutputOptions) -> Output:
    """Build the patched wheel of each of ``wheels``, prove one if requested, and put them in place.

    An identical wheel already in place is left alone; one with the same name and different content raises ``exists``
    (exit 1). If any wheel cannot be built, or the proof fails, none is put in place.
    """
    out = options.out.absolute()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(TemporaryDirectory(prefix=".gaudi-patch-", dir=out)))
            staged = [_stage(manifest, wheel, scratch, options) for wheel in wheels]
            for path, built in staged:
                _refuse_other(out / path.name, built)
            proof = None
            if options.smoke is not None:
                # Imports a megabyte of modules, needed for --smoke only.
                from gaudi_patch.wheel.prove import prove

                assert options.python is not None
                proof = prove([path for path, _ in staged], manifest.package, options.python, options.smoke)
            written = tuple(_place(path, built, out, options, proof) for path, built in staged)
            options.disk.sync_directory(out)
        return Output(written, proof)
    except OSError as error:
        raise environment_error(error, "writing the wheel", "no half-written wheel is left") from error


def _stage(manifest: Manifest, wheel: Path, scratch: Path, options: OutputOptions) -> tuple[Path, BuiltWheel]:
    unnamed = scratch / "wheel"
    with unnamed.open("xb") as stream:
        if wheel.name.endswith(".tar.gz"):
            from gaudi_patch.wheel.sdist import build_sdist

            built = build_sdist(manifest, wheel, stream, options.build)
        else:
            built = build(manifest, wheel, stream, options.build)
        stream.flush()
        os.fchmod(stream.fileno(), 0o644)
        os.fsync(stream.fileno())
    path = scratch / built.name.file
    unnamed.rename(path)
    return path, built


def _refuse_other(target: Path, built: BuiltWheel) -> None:
    if is_there(target) and (not is_file(target) or digest_of(target) != built.sha256):
        raise refused(
            "exists",
            "already exists with other content; nothing was written",
            "use a higher --build: installers cache the first wheel that they see of a version",
            str(target),
        )


def _place(staged: Path, built: BuiltWheel, out: Path, options: OutputOptions, proof: WheelProof | None) -> Written:
    """Put a wheel and its reports in place, and read the wheel back."""
    target = out / staged.name
    changed = not is_there(target)
    if changed:
        options.disk.replace(staged, target)
        if digest_of(target) != built.sha256:
            raise GaudiPatchError(
                Exit.ENVIRONMENT,
                "verify-failed",
                "read-back failed: the file differs from what was just written",
                "check the disk, remove the file, and run the same command again",
                str(target),
            )
    beside = []
    if options.report or options.signer is not None:
        for name, data in _reports(target.name, built, proof).items():
            file.put(out / name, data, options.disk)
            beside.append(out / name)
    if options.signer is not None:
        seconds = layout.stamp_ns() // layout.SECOND
        beside += [options.signer.sign(path, seconds, options.disk) for path in (target, *beside)]
    return Written(target, built, changed, tuple(beside))


def _reports(name: str, built: BuiltWheel, proof: WheelProof | None) -> dict[str, bytes]:
    attested = built.attestation
    if proof is not None:
        attested = document.with_proof(attested, document.Proof(proof.levels))
    artifact = (name, built.sha256)
    return {
        f"{name}{REPORT}": file.text(attested),
        f"{name}{intoto.SUFFIX}": forms.text(intoto.statement(attested, artifact)),
        f"{name}{cyclonedx.SUFFIX}": forms.text(cyclonedx.document(attested, artifact)),
    }
