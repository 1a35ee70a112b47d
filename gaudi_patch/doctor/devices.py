"""Checks of the cards: on the bus, with a driver, given to this container, and seen by PyTorch."""

from __future__ import annotations

from gaudi_patch.doctor import sources
from gaudi_patch.doctor.case import Case
from gaudi_patch.doctor.finding import Answer, check, failure, ok, unknown

_NO_CARDS = "no Gaudi card found on this host"
_ON_HOST = "run doctor on the Gaudi host, in the container that will serve"
_FIELDS = "index,module_id,name,driver_version"


@check(
    "device.cards",
    "Gaudi cards on the PCI bus",
    why="without a card nothing runs on HPU; the other device checks depend on this one",
    source="https://github.com/HabanaAI/hl-thunk-open/blob/master/include/specs/common/pci_ids.h",
    needs=("running",),
)
def cards(case: Case) -> Answer:
    if case.cards:
        return ok(f"{len(case.cards)} on the PCI bus")
    if not case.host.names("/sys/bus/pci/devices"):
        return unknown("/sys/bus/pci/devices cannot be read: cards cannot be detected", _ON_HOST)
    return unknown(_NO_CARDS, _ON_HOST)


@check(
    "device.driver",
    "the habanalabs driver is loaded",
    why="only the kernel driver habanalabs gives access to the cards",
    source=sources.VERIFICATION,
    needs=("running",),
)
def driver(case: Case) -> Answer:
    if "habanalabs" in case.host.names("/sys/module"):
        version = case.host.read("/sys/module/habanalabs/version")
        return ok(f"habanalabs {version} is loaded" if version else "habanalabs is loaded")
    if case.cards:
        return failure(
            f"{len(case.cards)} card(s) on the PCI bus, but the driver habanalabs is not loaded",
            "on the host: modprobe habanalabs; if that fails, install habanalabs-dkms and check dmesg",
        )
    return unknown(_NO_CARDS, _ON_HOST)


@check(
    "device.nodes",
    "device files of the cards",
    why="a container sees all cards on the bus, but can use only those that its runtime passed in",
    source=sources.DOCKER,
    needs=("running",),
)
def nodes(case: Case) -> Answer:
    nodes = [f"accel/{name}" for name in case.host.names("/dev/accel") if name.removeprefix("accel").isdigit()]
    nodes += [name for name in case.host.names("/dev") if name.startswith("hl") and name[2:].isdigit()]
    if nodes and case.cards:
        return ok(f"{len(nodes)} of {len(case.cards)} card(s) have a device file here: /dev/{', /dev/'.join(nodes)}")
    if case.cards:
        return failure(
            f"{len(case.cards)} card(s) on the PCI bus, but no /dev/accel/accel* and no /dev/hl*",
            "start the container with --runtime=habana -e HABANA_VISIBLE_DEVICES=all (on bare metal: load the driver)",
        )
    return unknown(_NO_CARDS, _ON_HOST)


@check(
    "device.hl-smi",
    "hl-smi lists the cards",
    why="hl-smi queries every card; a card missing from its list failed to start",
    source=sources.HL_SMI,
    needs=("running",),
)
def hl_smi(case: Case) -> Answer:
    done = case.host.tool("hl-smi", "-Q", _FIELDS, "-f", "csv,noheader")
    if done is None:
        return unknown("hl-smi is not on PATH", "it is part of the package habanalabs-firmware-tools")
    if isinstance(done, str):
        return unknown(f"hl-smi cannot be run: {done}")
    if done.timed_out:
        return failure(f"hl-smi did not answer in {done.seconds:.0f} s", "a card may hang: check dmesg, then reset it")
    if done.returncode != 0:
        what = f"hl-smi failed ({done.ending}): {done.last_line}"
        return failure(what, "check dmesg; reload the driver or reboot") if case.cards else unknown(what)
    rows = [line for line in done.tail.splitlines() if line.count(",") == _FIELDS.count(",")]
    if not rows:
        what = "hl-smi lists no card"
        return failure(what, "check dmesg for cards that failed to start") if case.cards else unknown(what)
    names = sorted({row.split(",")[2].strip() for row in rows})
    if len(rows) < len(case.cards) and not _in_container(case):
        return failure(
            f"hl-smi lists {len(rows)} of {len(case.cards)} cards on the PCI bus",
            "check dmesg for the missing card; reset it with hl-smi -r -i ADDRESS, or reboot",
        )
    return ok(f"{len(rows)} card(s), {', '.join(names)}, driver {rows[0].split(',')[3].strip()}")


def _in_container(case: Case) -> bool:
    """Return whether this is a container, which may be given only some of the cards.

    Docker and Podman leave these files; Kubernetes sets this variable.
    """
    marks = (case.host.path("/.dockerenv"), case.host.path("/run/.containerenv"))
    return any(mark.exists() for mark in marks) or "KUBERNETES_SERVICE_HOST" in case.environ


@check(
    "device.pyhlml",
    "the management library counts the cards",
    why="monitoring uses it; a different count means that the library does not match the driver",
    source=f"{sources.HABANA}/API_Reference_Guides/PYHLML_APIs/Common_APIs.html",
    needs=("running",),
)
def pyhlml(case: Case) -> Answer:
    if case.hpu.problem:
        return unknown(case.hpu.problem)
    library = case.hpu.hlml
    if not library.installed:
        return unknown("pyhlml is not installed in the target", "pip install habana-pyhlml, if you monitor with it")
    if library.reason:
        what = f"pyhlml cannot be used: {library.reason}"
        fix = "install the habanalabs-firmware-tools of the driver's release"
        return failure(what, fix) if case.cards else unknown(what)
    if library.count == 0 and case.cards:
        return failure("pyhlml counts no card", "see device.driver and device.nodes")
    return ok(f"pyhlml counts {library.count} card(s)")


@check(
    "device.torch-hpu",
    "torch.hpu in a process of the target",
    why="vLLM and LMCache reach the cards through torch.hpu",
    source=sources.bridge("python_packages/habana_frameworks/torch/hpu/__init__.py"),
    needs=("running",),
)
def torch_hpu(case: Case) -> Answer:
    if case.hpu.problem:
        return unknown(case.hpu.problem)
    library = case.hpu.torch
    if not library.installed:
        return unknown(library.reason)
    if library.available and library.count > 0:
        return ok(f"torch.hpu.is_available(), {library.count} device(s)")
    if library.reason:
        return failure(
            f"habana_frameworks cannot be used: {library.reason}",
            "install the PyTorch and the habana-torch-plugin of one Gaudi release; see software.torch",
        )
    reason = "torch.hpu.is_available() is False"
    if case.cards:
        return failure(reason, "see device.driver and device.nodes; then check whether another process holds the cards")
    return unknown(f"{reason}, and {_NO_CARDS}", _ON_HOST)


CHECKS = (cards, driver, nodes, hl_smi, pyhlml, torch_hpu)
