"""Plan -> a compose file, and a script with the same `docker run` commands. Pure."""

from __future__ import annotations

import shlex
from typing import Any, NamedTuple

from gaudi_patch.recipes.ports import in_url, reached_at
from gaudi_patch.recipes.targets.data import dump
from gaudi_patch.recipes.targets.plan import FILES, GRACE, MODELS, WARM_UP, Plan, Process, Role, mebibytes

COMPOSE, RUN = "compose.yaml", "docker-run.sh"
#: Variables that AWS's SDK reads; if they are empty, it uses a role of the host.
AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
#: In Python, which the image has; it may lack curl.
_HEALTH = "import urllib.request; urllib.request.urlopen('http://{host}:{port}/health', timeout=10)"


def files(plan: Plan, image: str) -> dict[str, str]:
    """Return the compose file, and a script of `docker run` commands, for processes of this host."""
    services = {process.name: _service(plan, process, image) for process in _here(plan)}
    document = {"name": "lmcache", "services": services}
    return {COMPOSE: plan.header + dump([document]), RUN: _script(plan, image)}


def _here(plan: Plan) -> tuple[Process, ...]:
    return (*plan.servers, *plan.engines)


def _service(plan: Plan, process: Process, image: str) -> dict[str, Any]:
    server = process.role is Role.SERVER
    service: dict[str, Any] = {
        "image": image,
        "entrypoint": ["/bin/sh", f"{FILES}/{process.script}"],
        "network_mode": "host",
        "ipc": "host",
        "restart": "unless-stopped",
        "stop_grace_period": f"{GRACE}s",
        "mem_limit": f"{mebibytes(process.memory)}m",
        "ulimits": {"memlock": -1},
        "environment": _environment(plan, process) | _passed(plan, process),
        "volumes": [_bind(volume) for volume in _volumes(plan, process)],
    }
    if not server:
        service |= {"runtime": "habana", "cap_add": ["SYS_NICE"]}
        service["healthcheck"] = {
            "test": ["CMD", "python3", "-c", _health(process)],
            "interval": "30s",
            "timeout": "15s",
            "retries": 4,
            "start_period": f"{WARM_UP}s",
        }
        if plan.servers:
            service["depends_on"] = {server.name: {"condition": "service_started"} for server in plan.servers}
    return service


def _health(process: Process) -> str:
    return _HEALTH.format(host=in_url(reached_at(process.of.bind)), port=process.port)


def _passed(plan: Plan, process: Process) -> dict[str, str]:
    """Return the variables from the environment of the user who starts it; no file or process list shows them."""
    found = {name: f"${{{name}:?set {name}}}" for name in process.of.secrets}
    if plan.uses_s3:
        found |= {name: f"${{{name}:-}}" for name in AWS}
    if process.role is Role.ENGINE:
        # vLLM listens on every interface of the host: without a key, it would serve anyone who reaches it.
        found |= {"VLLM_API_KEY": "${VLLM_API_KEY:?set VLLM_API_KEY}", "HF_TOKEN": "${HF_TOKEN:-}"}
    return found


def _environment(plan: Plan, process: Process) -> dict[str, str]:
    if process.role is Role.SERVER:
        return {}
    first = plan.engines.index(process) * plan.settings.ranks
    cards = ",".join(str(card) for card in range(first, first + plan.settings.ranks))
    return {
        "HABANA_VISIBLE_DEVICES": cards,
        "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
        "HF_HOME": MODELS,
    }


class Volume(NamedTuple):
    """A directory of the host in a container; ``source`` is a ``literal`` path, or contains our variables."""

    source: str
    target: str
    read_only: bool = False
    literal: bool = True
    created: bool = False


def _volumes(plan: Plan, process: Process) -> list[Volume]:
    found = [Volume(".", FILES, read_only=True)]
    local = [Volume(directory, directory, created=True) for directory in plan.local]
    if process.role is Role.SERVER:
        return found + (local if plan.multiprocess else [])
    found.append(Volume("${MODELS:-./models}", MODELS, literal=False, created=True))
    found += [] if plan.multiprocess else local
    return found + [Volume(directory, directory) for directory in plan.shared]


def _bind(volume: Volume) -> dict[str, Any]:
    """Return a compose volume. Unless ``created``, a missing directory is an error: its store may not be mounted."""
    found = {
        "type": "bind",
        "source": volume.source.replace("$", "$$") if volume.literal else volume.source,
        "target": volume.target.replace("$", "$$"),
        "bind": {"create_host_path": volume.created},
    }
    return {**found, "read_only": True} if volume.read_only else found


def _script(plan: Plan, image: str) -> str:
    """Return the script of `docker run` commands; it sets the same variables as compose."""
    passed = {name: value for process in _here(plan) for name, value in _passed(plan, process).items()}
    lines = [
        "#!/bin/sh",
        plan.header.strip(),
        "# The same containers without compose.",
        "set -eu",
        'cd -- "$(dirname -- "$0")"',
        'MODELS="${MODELS:-$PWD/models}"',
        'mkdir -p "$MODELS"',
        *(f'export {name}="{value}"' for name, value in passed.items()),
        *(f"mkdir -p {shlex.quote(directory)}" for directory in plan.local),
    ]
    for process in _here(plan):
        lines += ["", _run(plan, process, image)]
    return "\n".join(lines) + "\n"


def _run(plan: Plan, process: Process, image: str) -> str:
    server = process.role is Role.SERVER
    words = [
        "docker run --detach",
        f"--name {process.name}",
        "--restart unless-stopped",
        f"--stop-timeout {GRACE}",
        "--network host",
        "--ipc host",
        f"--memory {mebibytes(process.memory)}m",
        "--ulimit memlock=-1",
    ]
    if not server:
        words += ["--runtime habana", "--cap-add sys_nice"]
    words += [f"--env {name}={value}" for name, value in _environment(plan, process).items()]
    words += [f"--env {name}" for name in _passed(plan, process)]
    shell = {".": '"$PWD"', "${MODELS:-./models}": '"$MODELS"'}
    for volume in _volumes(plan, process):
        source = shell.get(volume.source) or shlex.quote(volume.source)
        end = ",readonly" if volume.read_only else ""
        words.append(f"--mount type=bind,source={source},target={shlex.quote(volume.target)}{end}")
    words += [f"--entrypoint /bin/sh {shlex.quote(image)}", f"{FILES}/{process.script}"]
    return " \\\n  ".join(words)


def notes(plan: Plan) -> tuple[str, ...]:
    """Return what an administrator must know about the containers."""
    found = [
        f"`docker compose up --detach` in the directory of {COMPOSE}, or `sh {RUN}`; both need VLLM_API_KEY.",
        "Models are kept in $MODELS, ./models by default. Ports and shared memory are the host's. Cards are numbered "
        "from 0: edit HABANA_VISIBLE_DEVICES if other cards are free.",
    ]
    if plan.local or plan.shared:
        found.append(f"Mounted from the host: {', '.join((*plan.local, *plan.shared))}.")
    if plan.having(Role.CLEANER):
        found.append(
            "No container removes old chunks: run clean.sh from a timer on one host, as the target systemd does."
        )
    if any(process.role is Role.ROCM for process in plan.processes):
        found.append("mi300x.sh is for the MI300X host, in an image of vLLM for ROCm: no container here runs it.")
    return tuple(found)
