"""The command line of ``python -m gaudi_patch.emulator``."""

from __future__ import annotations

import argparse
import atexit
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from . import build, pytorch
from .device import Emulator, activate
from .options import EmulatorError

#: Exit status if the device is unavailable; the last line of standard error then begins with "hpu emulator: ".
UNAVAILABLE = 4


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gaudi_patch.emulator",
        usage="%(prog)s [OPTIONS] SCRIPT [ARGS] | [OPTIONS] -m MODULE [ARGS] | build [--torch PLACE] [--out FILE]",
        description="Run a Python script or module with an emulated HPU, or build the device.",
        epilog="Options come before SCRIPT; they can also be set as HPU_EMULATOR_<NAME> in the environment.",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--lazy", action="store_const", const=True, default=None, help="lazy mode (PT_HPU_LAZY_MODE=1)")
    mode.add_argument("--eager", dest="lazy", action="store_const", const=False, help="eager mode (PT_HPU_LAZY_MODE=0)")
    parser.add_argument("--schedule", choices=["lazy", "reversed", "sync"])
    parser.add_argument("--strict", choices=["off", "count", "raise"], help="operators without a kernel on the device")
    parser.add_argument("--noncontiguous-d2h", choices=["copy", "raise", "bridge"])
    parser.add_argument("--no-poison", dest="poison", action="store_const", const=False, default=None)
    parser.add_argument("--int64-as-int32", action="store_const", const=True, default=None)
    parser.add_argument("--tolerant-index", action="store_const", const=True, default=None)
    parser.add_argument(
        "--counters", metavar="FILE", help="write the counters as JSON when the script ends ('-': stdout)"
    )
    parser.add_argument("--benchmark", action="store_true", help="print what the device costs, and run no script")
    parser.add_argument("-m", dest="module", metavar="MODULE", help="run a module instead of a script")
    return parser


def _split(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[list[str], list[str]]:
    """Split the command line into this program's options and the program to run with its arguments.

    As with Python itself, the program's part starts after ``-m MODULE``, or at the first word that is not an option.
    """
    valued = {name for action in parser._actions if action.nargs is None for name in action.option_strings}
    position = 0
    while position < len(argv) and argv[position].startswith("-") and argv[position] != "-":
        word = argv[position]
        position += 2 if word in valued else 1
        if word.startswith("-m") or word == "--":
            break
    return argv[:position], argv[position:]


def _write_counters(emulator: Emulator, target: str) -> None:
    text = json.dumps(emulator.counters.snapshot(), indent=2, sort_keys=True) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")


def main(argv: list[str]) -> int:
    """Run the script and return the exit status: 0, 2 for wrong usage, or 4 if the device is unavailable."""
    if argv[:1] == ["build"]:
        return _build(argv[1:])
    parser = _parser()
    own, rest = _split(parser, argv)
    arguments = parser.parse_args([word for word in own if word != "--"])
    if arguments.benchmark:
        from .benchmark import report

        return report()
    if not arguments.module and not rest:
        parser.error("no script was given")
    names = ("lazy", "schedule", "strict", "noncontiguous_d2h", "poison", "int64_as_int32", "tolerant_index")
    options: dict[str, Any] = {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}
    try:
        emulator = activate(**options)
    except EmulatorError as error:
        print(f"hpu emulator: {error}", file=sys.stderr)
        return UNAVAILABLE
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


def _build(argv: list[str]) -> int:
    """Compile the device without importing PyTorch; print its path."""
    parser = argparse.ArgumentParser(
        prog="python -m gaudi_patch.emulator build",
        description="Compile the emulated device, from the headers of PyTorch alone, and print the file's name.",
    )
    parser.add_argument(
        "--torch", type=Path, metavar="PLACE", help="a torch directory or wheel; else this interpreter's PyTorch"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write, for HPU_EMULATOR_DEVICE; else the cache"
    )
    parser.add_argument(
        "--name-to", type=Path, metavar="FILE", help="write the name of the device into FILE, and print nothing"
    )
    arguments = parser.parse_args(argv)
    try:
        with pytorch.named(arguments.torch) as found:
            if arguments.out is None:
                name = str(build.library(found))
                if arguments.name_to is None:
                    print(name)
                else:  # this interpreter may print other things
                    arguments.name_to.write_bytes(os.fsencode(name))
                return 0
            sha256 = build.build_to(arguments.out.resolve(), found)
            print(f"{sha256}  {arguments.out}")
            print(f"hpu emulator: built for PyTorch {found.version} on {found.machine}", file=sys.stderr)
    except EmulatorError as error:
        print(f"hpu emulator: {error}", file=sys.stderr)
        return UNAVAILABLE
    return 0
