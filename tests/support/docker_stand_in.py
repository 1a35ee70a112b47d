"""`docker` for the CI files: build, run, login and push, on a `Container`. It refuses anything else.

Like docker, it does not repeat a build of the same Dockerfile with the same arguments.

Usage: docker_stand_in.py ROOT COMMAND...
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support import dockerfile
from tests.support.container import Container


def build(root: Path, words: list[str]) -> int:
    parser = argparse.ArgumentParser("docker build", allow_abbrev=False)
    parser.add_argument("--file", required=True)
    parser.add_argument("--tag", required=True)
    parser.add_argument("--build-arg", action="append", default=[])
    parser.add_argument("context")
    options = parser.parse_args(words)
    container = Container.load(root)
    given = dict(one.split("=", 1) for one in options.build_arg)
    container.context = Path(options.context).absolute()
    text = Path(options.context, options.file).read_text()
    done = root / "cache" / hashlib.sha256(repr((text, sorted(given.items()))).encode()).hexdigest()
    if not done.exists():
        try:
            dockerfile.build(text, container, given)
        except dockerfile.BuildError as error:
            print(error, file=sys.stderr)
            return 1
        done.parent.mkdir(exist_ok=True)
        done.write_text(container.image)
        container.save("image")
    (root / "image").write_text(f"{options.tag}\n{done.read_text()}\n")
    return 0


def run(root: Path, words: list[str]) -> int:
    parser = argparse.ArgumentParser("docker run", allow_abbrev=False)
    parser.add_argument("--rm", action="store_true", required=True)
    parser.add_argument("--entrypoint", required=True)
    parser.add_argument("--user")
    parser.add_argument("--workdir")
    parser.add_argument("image")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    built(root, options.image)
    container = Container.load(root, "image")
    container.user = options.user or container.user
    command = [container.here(one) for one in (options.entrypoint, *options.command)]
    done = container.run(command, cwd=options.workdir and Path(options.workdir))
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


def login(root: Path, words: list[str]) -> int:
    parser = argparse.ArgumentParser("docker login", allow_abbrev=False)
    parser.add_argument("--username", required=True)
    parser.add_argument("--password-stdin", action="store_true", required=True)
    parser.add_argument("registry")
    options = parser.parse_args(words)
    (root / "login").write_text(f"{options.username} {sys.stdin.read().strip()} {options.registry}")
    return 0


def push(root: Path, words: list[str]) -> int:
    (image,) = words
    built(root, image)
    assert (root / "login").exists(), "not logged in"
    (root / "pushed").write_text(image)
    return 0


def built(root: Path, image: str) -> None:
    assert (root / "image").read_text().splitlines()[0] == image, f"no image {image} was built"


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    sys.exit({"build": build, "run": run, "login": login, "push": push}[sys.argv[2]](Path(sys.argv[1]), sys.argv[3:]))
