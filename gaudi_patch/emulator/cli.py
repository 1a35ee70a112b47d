"""The command line of ``python -m gaudi_patch.emulator``."""

from __future__ import annotations

import argparse
import atexit
import json
import runpy
import sys
from pathlib import Path
from typing import Any

from .device import Emulator, activate
from .options import EmulatorError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gaudi_patch.emulator",
        description="Run a Python script with an emulated HPU.",
        epilog="Options come before SCRIPT; they can also be set as HPU_EMULATOR_<NAME> in the environment.",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--lazy", action="store_const", const=True, default=None, help="lazy rules (PT_HPU_LAZY_MODE=1)")
    mode.add_argument(
        "--eager", dest="lazy", action="store_const", const=False, help="eager rules (PT_HPU_LAZY_MODE=0)"
    )
    parser.add_argument("--schedule", choices=["lazy", "reversed", "sync"])
    parser.add_argument(
        "--strict", choices=["off", "count", "raise"], help="operators that the device has no kernel for"
    )
    parser.add_argument("--noncontiguous-d2h", choices=["copy", "raise", "bridge"])
    parser.add_argument("--no-poison", dest="poison", action="store_const", const=False, default=None)
    parser.add_argument("--int64-as-int32", action="store_const", const=True, default=None)
    parser.add_argument("--tolerant-index", action="store_const", const=True, default=None)
    parser.add_argument(
        "--counters", metavar="FILE", help="write the counters as JSON when the script ends ('-': stdout)"
    )
    parser.add_argument("--benchmark", action="store_true", help="print what the device costs, and run no script")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module instead of a script")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGS]")
    return parser


def _write_counters(emulator: Emulator, target: str) -> None:
    text = json.dumps(emulator.counters.snapshot(), indent=2, sort_keys=True) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    """Runs the script and returns its exit status; 2 for wrong usage, 4 when the device cannot be had."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.benchmark:
        from .benchmark import report

        return report()
    rest: list[str] = arguments.arguments
    if not arguments.module and not rest:
        parser.error("a script is needed")
    names = ("lazy", "schedule", "strict", "noncontiguous_d2h", "poison", "int64_as_int32", "tolerant_index")
    options: dict[str, Any] = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    try:
        emulator = activate(**options)
    except EmulatorError as error:
        print(f"hpu emulator: {error}", file=sys.stderr)
        return 4
    except ValueError as error:  # an option in the environment
        parser.error(str(error))
    if arguments.counters:
        atexit.register(_write_counters, emulator, arguments.counters)
    if arguments.module:
        sys.argv = [arguments.module, *rest]
        sys.path.insert(0, "")
        runpy.run_module(arguments.module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        sys.path.insert(0, str(Path(rest[0]).resolve().parent))
        runpy.run_path(rest[0], run_name="__main__")
    return 0
