"""Detached signatures in minisign's form: without one, anybody could have written an attestation.

The library is py-minisign, an optional extra; minisign itself makes the keys and verifies as well
(https://jedisct1.github.io/minisign/). A signature covers the file's bytes, so it can be verified before the file is
parsed.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gaudi_patch.disk import Disk, environment_error
from gaudi_patch.errors import Exit, GaudiPatchError
from gaudi_patch.reading import UnsuitableFileError, read_bytes

SUFFIX = ".minisig"
#: What the extra ``sign`` requires; gaudi-patch itself may come from no index, so the hint names the library.
REQUIREMENT = "py-minisign>=0.21"
#: The password of an encrypted secret key; an option would expose it to every user of the machine.
PASSWORD = "GAUDI_PATCH_SIGN_PASSWORD"  # noqa: S105 - the variable's name
_KEY_LIMIT = 64 * 1024


class Signer:
    """A secret key of minisign, ready to sign."""

    def __init__(self, key: Path, environ: Mapping[str, str] = os.environ) -> None:
        """Read the key. Raises ``bad-key`` (exit 2), ``no-signing-library`` (exit 4)."""
        library = _library()
        try:
            self._secret = library.SecretKey.from_bytes(_read(key, "secret key"))
            if self._secret.is_encrypted():
                password = environ.get(PASSWORD)
                if password is None:
                    raise _bad(
                        key, "is encrypted", f"set {PASSWORD}, or create a key without a password: minisign -G -W"
                    )
                self._secret.decrypt(password)
        except (library.Error, ValueError) as error:
            raise _bad(
                key, f"is not a minisign secret key: {error}", "create one: `minisign -G -s FILE -p FILE.pub`"
            ) from (error)

    def sign(self, path: Path, seconds: int, disk: Disk) -> Path:
        """Write the signature of ``path`` beside it; return the signature's path."""
        from gaudi_patch.attestation import file

        comment = f"timestamp:{seconds}\tfile:{path.name}\thashed"
        with path.open("rb") as stream:
            signature = self._secret.sign(
                stream, untrusted_comment="signature from gaudi-patch, minisign's form", trusted_comment=comment
            )
        target = path.with_name(path.name + SUFFIX)
        file.put(target, bytes(signature) + b"\n", disk)
        return target


def verify(path: Path, data: bytes, key: Path) -> str:
    """Verify the signature beside ``path`` for its bytes ``data``; return the trusted comment.

    Raises ``unsigned`` (exit 1) if there is no signature, ``bad-signature`` (exit 1) if it does not match ``data`` and
    ``key``, ``bad-key`` (exit 2).
    """
    library = _library()
    signature = path.with_name(path.name + SUFFIX)
    try:
        public = library.PublicKey.from_bytes(_read(key, "public key"))
    except (library.Error, ValueError) as error:
        raise _bad(
            key, f"is not a minisign public key: {error}", "give the .pub file that `minisign -G` wrote"
        ) from error
    try:
        signed = read_bytes(signature, _KEY_LIMIT)
    except (FileNotFoundError, NotADirectoryError, UnsuitableFileError):
        named = shlex.quote(str(path.absolute()))
        raise GaudiPatchError(
            Exit.REFUSED,
            "unsigned",
            f"is not signed: there is no file {signature.name} beside it",
            f"have it signed: `gaudi-patch attest {named} --sign-key KEY`, or `minisign -S -m {named}`",
            str(path),
        ) from None
    except OSError as error:
        raise environment_error(error, "reading the signature") from error
    try:
        parsed = library.Signature.from_bytes(signed)
        if not parsed.is_prehashed():
            raise library.VerifyError("it has minisign's old format, which is no longer accepted")
        public.verify(data, parsed)
    except (library.Error, ValueError) as error:
        raise GaudiPatchError(
            Exit.REFUSED,
            "bad-signature",
            f"is not signed by the key in {key}: {error}",
            "do not trust it; get the file and its signature again from the signer",
            str(path),
        ) from error
    return str(parsed.trusted_comment)


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        import minisign
    except ImportError:
        raise GaudiPatchError(
            Exit.ENVIRONMENT,
            "no-signing-library",
            "signatures need py-minisign, which is not installed; nothing was changed",
            f"`{shlex.join([sys.executable, '-m', 'pip', 'install', REQUIREMENT])}` installs it",
        ) from None
    return minisign


def _read(path: Path, what: str) -> bytes:
    try:
        return read_bytes(path, _KEY_LIMIT)
    except (FileNotFoundError, NotADirectoryError, UnsuitableFileError) as error:
        raise _bad(path, f"there is no {what} ({error.strerror})", "name the file that `minisign -G` wrote") from error
    except OSError as error:
        raise environment_error(error, f"reading the {what}") from error


def _bad(path: Path, what: str, hint: str) -> GaudiPatchError:
    return GaudiPatchError(Exit.USAGE, "bad-key", f"{what}; nothing was changed", hint, str(path))
