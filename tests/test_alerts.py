"""The alerts and what compose.yaml starts: valid, consistent, each shown firing and not firing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from services import require

CONFIGS = ROOT / "configs"
PROMETHEUS = CONFIGS / "prometheus"


def promtool(*command: str, cwd: Path = PROMETHEUS) -> tuple[int, str]:
    ended = subprocess.run(
        [require("promtool"), *command], cwd=cwd, capture_output=True, text=True, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def alerts() -> list[dict[str, Any]]:
    (group,) = loaded(PROMETHEUS / "alerts.yaml")["groups"]
    return list(group["rules"])


def cases() -> list[dict[str, Any]]:
    tests = loaded(PROMETHEUS / "alerts_test.yaml")["tests"]
    return [case for test in tests for case in test["alert_rule_test"]]


def test_the_rules_and_the_configuration_are_valid() -> None:
    code, said = promtool("check", "rules", "--lint-fatal", "alerts.yaml")
    assert code == 0, said
    assert f"{len(alerts())} rules found" in said
    code, said = promtool("check", "config", "prometheus.yaml")
    assert code == 0, said


def test_the_rules_do_what_their_tests_say() -> None:
    code, said = promtool("test", "rules", "alerts_test.yaml")
    assert code == 0, said


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_each_alert_is_shown_firing_and_not_firing(rule: dict[str, Any]) -> None:
    fired = [bool(case["exp_alerts"]) for case in cases() if case["alertname"] == rule["alert"]]
    assert set(fired) == {True, False}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_that_never_fires_fails_its_test(tmp_path: Path, rule: dict[str, Any]) -> None:
    name, text = rule["alert"], (PROMETHEUS / "alerts.yaml").read_text()
    head, tail = text.split(f"alert: {name}\n")
    broken = tail.replace("maskstream_", "maskstrem_").replace("up{job", "upp{job")
    broken = broken.replace("absent(", "absent(vector(1) or ")
    (tmp_path / "alerts.yaml").write_text(f"{head}alert: {name}\n{broken}")
    (tmp_path / "alerts_test.yaml").write_text((PROMETHEUS / "alerts_test.yaml").read_text())
    code, said = promtool("test", "rules", "alerts_test.yaml", cwd=tmp_path)
    assert code != 0
    assert f"alertname: {name}" in said


def test_prometheus_scrapes_where_a_run_listens() -> None:
    from pipeline.http_config import HttpConfig

    config = loaded(PROMETHEUS / "prometheus.yaml")
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "maskstream", "MaskstreamDown looks for this job"
    default = HttpConfig()
    assert job["static_configs"][0]["targets"] == [f"{default.host}:{default.port}"]


def test_compose_mounts_what_is_there_and_opens_nothing_beyond_this_machine() -> None:
    services = loaded(CONFIGS / "compose.yaml")["services"]
    mounts = [volume.split(":")[0] for one in services.values() for volume in one["volumes"]]
    ours = [mount for mount in mounts if mount.startswith("./")]
    assert len(ours) == 3
    assert [mount for mount in ours if not (CONFIGS / mount).exists()] == []
    assert {one["network_mode"] for one in services.values()} == {"host"}
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    source = loaded(CONFIGS / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    assert source["url"] == "http://127.0.0.1:9090"
    scrape = loaded(PROMETHEUS / "prometheus.yaml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
