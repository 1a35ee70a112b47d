"""The files for Prometheus and Grafana are valid, and refer to metrics of the releases.

promtool is used if installed (Debian's package prometheus includes it).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from gaudi_patch import guides
from gaudi_patch.recipes.multiprocess import HTTP_PORT
from gaudi_patch.verify import counters
from tests.integration.test_vllm_pairs import WANTED
from tests.support import environments, vllm_pairs
from tests.support.environments import EnvironmentUnavailableError
from tests.support.vllm_pairs import Pair

FOLDER = Path(__file__).resolve().parents[2] / "gaudi_patch" / "container" / "monitoring"
NAME = re.compile(r"\b(?:vllm:|lmcache:|lmcache_mp_)[a-z0-9_]+")
#: Suffixes that Prometheus' clients add to the name in the source.
ADDED = ("_chunks_total", "_tokens_total", "_total", "_bucket", "")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]] + [rule["expr"] for rule in rules()]


def names() -> set[str]:
    text = "\n".join(expressions()) + guides.read("monitoring").markdown
    return set(NAME.findall(text)) | {counters.ASKED, counters.HITS, counters.OWN_HITS, counters.PROMPTS}


def missing(wanted: set[str], source: str) -> set[str]:
    """Return the names that ``source`` defines in none of the forms that clients derive from them."""
    lost = set()
    for name in wanted:
        stems = [name.removesuffix(end) for end in ADDED if name.endswith(end)]
        stems = [stem.replace("lmcache_mp_", "lmcache_mp.", 1) for stem in stems]
        if not any(f'"{stem}"' in source or f"'{stem}'" in source for stem in stems):
            lost.add(name)
    return lost


@pytest.mark.wheels
@pytest.mark.parametrize(("release", "multiprocess"), [("0.5.6", True), ("0.4.2", False), ("0.3.15", False)])
def test_lmcache_has_every_metric_that_is_named(release: str, multiprocess: bool) -> None:
    try:
        wheel = environments.wheel(release, "3.11")
    except EnvironmentUnavailableError as error:
        pytest.skip(f"environment not available: {error}")
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if name.endswith(".py") and "/" in name]
        source = "\n".join(archive.read(name).decode("utf-8", "replace") for name in files)
    ours = {name for name in names() if name.startswith("lmcache")}
    wanted = ours if multiprocess else {name for name in ours if name.startswith("lmcache:")}
    assert len(wanted) >= 4
    assert missing(wanted, source) == set()
    assert missing({"lmcache:no_such_total"}, source) == {"lmcache:no_such_total"}


@pytest.mark.wheels
@pytest.mark.torch
@pytest.mark.parametrize("pair", WANTED, ids=str)
def test_vllm_has_every_metric_that_is_named_and_every_path_that_verify_asks(pair: Pair) -> None:
    try:
        package = vllm_pairs.layers(pair)[0] / "vllm"
    except EnvironmentUnavailableError as error:
        pytest.skip(f"environment not available: {error}")
    source = "\n".join(file.read_text() for room in ("v1", "entrypoints") for file in (package / room).rglob("*.py"))
    wanted = {name for name in names() if name.startswith("vllm:")}
    assert len(wanted) >= 8
    assert missing(wanted, source) == set()
    for path in ("/health", "/v1/models", "/v1/completions", "/reset_prefix_cache"):
        assert f'"{path}"' in source


def test_each_alert_and_each_metric_is_explained_in_the_guide() -> None:
    text = guides.read("monitoring").markdown
    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in text] == []
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    assert {name.removesuffix("_bucket") for name in shown if name.removesuffix("_bucket") not in text} == set()


def test_every_panel_shows_something_of_the_chosen_servers() -> None:
    assert len({panel["id"] for panel in panels()}) == len(panels()) >= 8
    for panel in panels():
        assert panel["title"]
        for target in panel["targets"]:
            assert '{instance=~"$instance"}' in target["expr"]


def test_prometheus_looks_where_the_recipes_listen() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    ports = {job["job_name"]: job["static_configs"][0]["targets"][0].rpartition(":")[2] for job in jobs}
    assert ports == {"vllm": "8000", "lmcache-server": str(HTTP_PORT), "gaudi": "41611"}
    assert {'up{job="vllm"}', 'up{job="lmcache-server"}'} <= {rule["expr"].removesuffix(" == 0") for rule in rules()}


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_takes_configuration_rules_and_expressions(tmp_path: Path) -> None:
    done = promtool("check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    # A dashboard's expressions are checked as PromQL, each as a rule of its own.
    shown = [target["expr"] for panel in panels() for target in panel["targets"]]
    plain = [one.replace("$__rate_interval", "5m").replace("$instance", ".*") for one in shown]
    file = tmp_path / "panels.yml"

    def checked(expressions: list[str]) -> int:
        recorded = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions)]
        file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
        return promtool("check", "rules", file).returncode

    assert checked(plain) == 0
    assert checked([*plain, "sum by ("]) != 0


@needs_promtool
def test_alerts_fire_for_what_they_are_about_and_for_nothing_else(tmp_path: Path) -> None:
    def series(name: str, values: str, job: str = "vllm") -> dict[str, str]:
        return {"series": f'{name}{{job="{job}", instance="a"}}', "values": values}

    def counted(alert: str, name: str, job: str = "vllm") -> list[tuple[str, list[dict[str, str]], bool]]:
        """Return cases of an alert on a counter: it fires for a growing counter, not for a constant one."""
        return [(alert, [series(name, "0+1x90", job)], True), (alert, [series(name, "5+0x90", job)], False)]

    asked = series(counters.ASKED, "0+100000x90")
    cases = [
        ("LmcacheNoHits", [asked, series(counters.HITS, "0+0x90")], True),
        ("LmcacheNoHits", [asked, series(counters.HITS, "0+10x90")], False),
        ("LmcacheNoHits", [series(counters.ASKED, "0+10x90"), series(counters.HITS, "0+0x90")], False),
        ("VllmDown", [series("up", "0+0x90")], True),
        ("VllmDown", [series("up", "1+0x90")], False),
        ("VllmDown", [series("up", "0+0x90", "lmcache-server")], False),
        *counted("LmcachePoolFull", "lmcache:local_cpu_evict_failed_count_total"),
        *counted("LmcacheServerOutOfMemory", "lmcache_mp_l1_allocation_failure_chunks_total", "lmcache-server"),
        *counted("LmcacheServerTimeouts", "lmcache_mp_timeouts_total", "lmcache-server"),
        ("VllmPreempts", [series("vllm:num_preemptions_total", "0+30x90")], True),
        ("VllmPreempts", [series("vllm:num_preemptions_total", "0+3x90")], False),
        ("VllmPreempts", [series("vllm:num_preemptions_total", "500+0x90")], False),
        ("VllmQueueGrows", [series("vllm:num_requests_waiting", "51+0x90")], True),
        ("VllmQueueGrows", [series("vllm:num_requests_waiting", "50+0x90")], False),
        ("VllmQueueGrows", [series("vllm:num_requests_waiting", "0+0x75 60+0x15")], False),  # 5 minutes of 15
        ("LmcacheStoreUnreachable", [series("lmcache:remote_ping_errors_total", "0+1x90")], True),
        ("LmcacheStoreUnreachable", [series("lmcache:remote_ping_errors_total", "5+0x90")], False),
        ("LmcacheServerDown", [series("up", "0+0x90", "lmcache-server")], True),
        ("LmcacheServerDown", [series("up", "1+0x90", "lmcache-server")], False),
    ]
    assert {(rule["alert"], fires) for rule in rules() for fires in (True, False)} == {
        (alert, fires) for alert, _, fires in cases
    }, "each alert is seen to fire, and not to"
    for number, (alert, given, fires) in enumerate(cases):
        (rule,) = [one for one in rules() if one["alert"] == alert]
        labels = {"instance": "a", **rule["labels"]}
        if "sum by" not in rule["expr"]:
            labels["job"] = given[0]["series"].split('"')[1]
        text = rule["annotations"]["summary"].replace("{{ $labels.instance }}", "a").replace("{{ $value }}", "51")
        expected = [{"exp_labels": labels, "exp_annotations": {"summary": text}}] if fires else []
        test = {"alert_rule_test": [{"eval_time": "80m", "alertname": alert, "exp_alerts": expected}]}
        file = tmp_path / f"{number}.yml"
        document = {
            "rule_files": [str(FOLDER / "alerts.yml")],
            "tests": [{"interval": "1m", "input_series": given, **test}],
        }
        file.write_text(yaml.safe_dump(document))
        done = promtool("test", "rules", file)
        assert done.returncode == 0, (alert, fires, done.stdout + done.stderr)
