"""Plan -> systemd units. Each runs a script of the recipe from the directory of the recipe's files. Pure."""

from __future__ import annotations

from pathlib import PurePosixPath

from gaudi_patch.recipes.targets.plan import CLEANED, GRACE, Plan, Process, Role

#: Keys and tokens: systemd reads them as root, and no unit or process list shows them.
SECRETS = "/etc/lmcache/secrets.env"


def files(plan: Plan, folder: PurePosixPath) -> dict[str, str]:
    """Return the units by name; ``folder`` is the absolute path of the recipe's own files."""
    found = {f"{process.name}.service": _unit(plan, process, folder) for process in plan.processes}
    return found | {f"{process.name}.timer": _timer(plan, process) for process in plan.having(Role.CLEANER)}


def _timer(plan: Plan, process: Process) -> str:
    return (
        f"{plan.header}[Unit]\nDescription={process.of.what.partition(';')[0].replace('%', '%%')}\n\n"
        f"[Timer]\nOnBootSec={CLEANED}min\nOnUnitInactiveSec={CLEANED}min\n\n[Install]\nWantedBy=timers.target\n"
    )


def _unit(plan: Plan, process: Process, folder: PurePosixPath) -> str:
    server, cleaner = process.role is Role.SERVER, process.role is Role.CLEANER
    before = [f"{other.name}.service" for other in plan.servers] if not (server or cleaner) else []
    after = " ".join(["network-online.target", *before])
    mounts = () if server else plan.shared
    what = "LMCache's server" if server else "LMCache's cleaner" if cleaner else f"vLLM, port {process.port}"
    unit = [
        f"Description={what} ({plan.mode})",
        f"Wants={after}",
        f"After={after}",
        *(f"RequiresMountsFor={_word(mount)}" for mount in mounts),
        # Avoid a restart every few seconds for a day: a refused configuration stays refused.
        "StartLimitIntervalSec=1h",
        "StartLimitBurst=5",
    ]
    service = [
        f"Type={'oneshot' if cleaner else 'exec'}",
        f"ExecStart={_word(str(folder / process.script))}",
        f"EnvironmentFile=-{SECRETS}",
        *(() if cleaner else ("Restart=on-failure", "RestartSec=10")),
        f"TimeoutStopSec={GRACE}",
        "# Host memory is pinned for the cards.",
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=65536",
        "NoNewPrivileges=true",
        "ProtectSystem=full",
        *(() if plan.multiprocess else ("PrivateTmp=true",)),
    ]
    sections = {"Unit": unit, "Service": service}
    if not cleaner:
        sections["Install"] = ["WantedBy=multi-user.target"]
    text = "\n\n".join("\n".join([f"[{name}]", *lines]) for name, lines in sections.items())
    return f"{plan.header}{text}\n"


def _word(text: str) -> str:
    """Return ``text`` as one word of a unit, with specifiers, variables and quotes escaped."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or " " in text or "'" in text else text


def notes(plan: Plan, folder: PurePosixPath) -> tuple[str, ...]:
    """Return what an administrator does with the units."""
    timers = plan.having(Role.CLEANER)
    units = " ".join(f"{process.name}.{'timer' if process in timers else 'service'}" for process in plan.processes)
    keys = dict.fromkeys(
        ["VLLM_API_KEY", "HF_TOKEN", *(key for process in plan.processes for key in process.of.secrets)]
    )
    found = [
        f"The units run the scripts in {folder}: keep them there. Copy the units to /etc/systemd/system, then "
        f"`systemctl daemon-reload` and `systemctl enable --now {units}`.",
        f"Keys go into {SECRETS} ({'=, '.join(keys)}=), readable only by root.",
        "Each unit runs as root until `systemctl edit` sets User= to a user who may open the cards.",
    ]
    if any(process.role is Role.ROCM for process in plan.processes):
        found.append("vllm-mi300x.service is for the MI300X host, vllm-gaudi.service for the Gaudi host.")
    return tuple(found)
