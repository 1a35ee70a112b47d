"""The facts that the checks examine, each gathered once, when first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from packaging.version import InvalidVersion, Version

from gaudi_patch.doctor import answers, installed
from gaudi_patch.doctor.answers import Devices, FirstCause, Loaded
from gaudi_patch.doctor.arguments import Arguments
from gaudi_patch.doctor.host import Host
from gaudi_patch.engine.plan import State
from gaudi_patch.engine.situation import Situation, given
from gaudi_patch.engine.verdicts import settled
from gaudi_patch.errors import GaudiPatchError
from gaudi_patch.output.wrapping import Whole
from gaudi_patch.series.manifest import Manifest
from gaudi_patch.target import none_hash
from gaudi_patch.target.ask import AskError, Problem, ask
from gaudi_patch.target.installation import Installation
from gaudi_patch.target.invocation import command_line
from gaudi_patch.target.locate import locate
from gaudi_patch.target.search import Target

_PROBE_SECONDS = 120.0
#: The answer of a check that needs LMCache if there is none.
NOT_FOUND = "LMCache was not found, see patch.installation"
_T = TypeVar("_T")

#: https://github.com/HabanaAI/hl-thunk-open/blob/master/include/specs/common/pci_ids.h
HABANA_VENDOR = "0x1da3"


@dataclass(frozen=True)
class Case:
    """One host, one target, one configuration.

    ``arguments`` is None without a vLLM command line. ``config`` is None without a configuration file: LMCache then
    uses its environment variables and defaults.
    """

    host: Host
    target: Target
    manifest: Manifest
    arguments: Arguments | None = None
    config: Path | None = None

    def lacking(self, need: str) -> str:
        """Return why ``need`` is not met; "" if it is."""
        if need == "running":
            return "" if self.host.running else "an unpacked image runs nothing: run doctor in the container"
        if need == "arguments":
            if self.arguments is None:
                return "no vLLM command line was given; give it with --vllm-args 'MODEL --kv-transfer-config ...'"
            return "the vLLM command line cannot be read" if self.arguments.problem else ""
        if need == "connector":
            missing = self.lacking("arguments")
            return missing or ("" if self.uses_lmcache else "the command line gives no LMCache connector")
        assert need == "settings", need
        return "LMCache's configuration is not loaded: see config.load" if self.settings.problem else ""

    @property
    def environ(self) -> Mapping[str, str]:
        return self.host.environ

    @property
    def uses_lmcache(self) -> bool:
        return self.arguments is not None and any(
            "LMCache" in name for name in (self.arguments.connector, *self.arguments.parts)
        )

    @property
    def ranks(self) -> int | None:
        """Return how many processes own a card; None if the command line is unknown."""
        return None if self.lacking("arguments") or self.arguments is None else self.arguments.ranks

    @cached_property
    def installed(self) -> installed.Installed:
        return installed.look(self.target, self.environ, self.manifest.package)

    def version(self, package: str) -> Version | None:
        """Return the version of an installed package; None if it is missing or its version is invalid."""
        entry = self.installed.packages.get(package)
        try:
            return Version(entry.version) if entry else None
        except InvalidVersion:
            return None

    @cached_property
    def cards(self) -> list[str]:
        """Return the PCI addresses of the Gaudi cards."""
        devices = "/sys/bus/pci/devices"
        return [
            device
            for device in self.host.names(devices)
            if self.host.read(f"{devices}/{device}/vendor") == HABANA_VENDOR
        ]

    @property
    def is_gaudi(self) -> bool:
        """Return whether the target is meant for Gaudi: there are cards, or the software for them."""
        return bool(self.cards) or "habana-torch-plugin" in self.installed.packages

    @cached_property
    def lmcache(self) -> Installation | GaudiPatchError:
        """Return the only LMCache installation, or the error that explains why there is none."""
        try:
            return locate(self.target, self.manifest.package, self.environ)
        except GaudiPatchError as error:
            return error

    @cached_property
    def situation(self) -> Situation | GaudiPatchError:
        """Return the state of LMCache's files, or the error if it is unreadable or not settled."""
        if isinstance(self.lmcache, GaudiPatchError):
            return self.lmcache
        try:
            situation, unsettled = settled(self.manifest, self.lmcache)
        except GaudiPatchError as error:
            return error
        return unsettled or situation

    @property
    def is_patched(self) -> bool:
        return not isinstance(self.situation, GaudiPatchError) and self.situation.state is State.PATCHED

    def command(self, name: str, *arguments: str) -> Whole:
        """Return the shell command line of another command for this target; it stays on one line."""
        return Whole(command_line(name, *arguments, target=self.target, manifest=given(self.manifest)))

    @cached_property
    def hpu(self) -> Devices:
        """Return what torch.hpu and pyhlml report in a process of the target."""
        try:
            return self._asked("hpu.py", None, answers.devices)
        except _NotAskedError as error:
            return Devices(problem=str(error))

    @cached_property
    def first_cause(self) -> FirstCause:
        """Return the failure that LMCache swallows on import in a process of the target."""
        try:
            return self._asked("first_cause.py", None, answers.first_cause)
        except _NotAskedError as error:
            return FirstCause(problem=str(error))

    @cached_property
    def processes_agree_on_none(self) -> bool | None:
        """Return whether processes of the target's Python agree on keys that contain None; None if unknown."""
        if self.lacking("running") or self.installed.python is None:
            return None
        return none_hash.agrees(self.installed.python, self.environ)

    @cached_property
    def settings(self) -> Loaded:
        """Return LMCache's configuration, loaded by LMCache itself."""
        if isinstance(self.lmcache, GaudiPatchError):
            return Loaded({}, problem="LMCache was not found")
        file = self.config or self.environ.get("LMCACHE_CONFIG_FILE")
        overrides = self.arguments.lmcache_settings if self.arguments else {}
        question = {"file": str(file) if file else None, "environment": True, "overrides": overrides, "guard": False}
        try:
            settings = self._asked("load_config.py", question, answers.loaded)
        except _NotAskedError as error:
            return Loaded({}, problem=str(error))
        if settings.problem and not settings.refused:
            return replace(settings, problem=f"LMCache cannot be imported: {settings.problem}")
        return settings

    def yaml(self, file: Path) -> Loaded:
        """Return the values of a YAML file, read by the target's own YAML library."""
        try:
            return self._asked("read_yaml.py", {"file": str(file)}, answers.loaded)
        except _NotAskedError as error:
            return Loaded({}, problem=str(error))

    def _asked(self, script: str, question: Mapping[str, Any] | None, read: Callable[[object], _T]) -> _T:
        """Run a script under the target's interpreter, in the environment that a server would have.

        Returns the answer as parsed by ``read``; raises _NotAskedError if it is missing or malformed.
        """
        if reason := self.lacking("running"):
            raise _NotAskedError(reason)
        if self.installed.python is None:
            raise _NotAskedError(
                self.installed.problem or "no interpreter of the target is known: name it with --python"
            )
        environ = {
            **self.environ,
            "PYTHONSAFEPATH": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LMCACHE_TRACK_USAGE": "false",
            "LMCACHE_LOG_LEVEL": "WARNING",
        }
        try:
            with TemporaryDirectory(prefix="gaudi-patch-doctor-", ignore_cleanup_errors=True) as empty:
                answer = ask(
                    self.installed.python,
                    script,
                    timeout=_PROBE_SECONDS,
                    environ=environ,
                    flags=(),
                    question=question,
                    cwd=empty,
                )
            return read(answer)
        except AskError as error:
            cannot = "cannot be run" if error.problem is Problem.NOT_STARTED else "gave no answer"
            raise _NotAskedError(f"{self.installed.python} {cannot}: {error}") from None


class _NotAskedError(RuntimeError):
    """The target could not be asked; the message says why."""
