"""Every mistake in a configuration is one line that names file, key, value and expectation."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.config import RunConfig, load_config
from pipeline.yaml_file import shipped_configs, shipped_runs
from stages.errors import ConfigError

MINIMAL = """\
name: t
source: {kind: phantom, seed: 1}
detector: {kind: none}
segmenter: {kind: sam2_image, max_objects: 2}
"""


def written(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refusal(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 78
    return message


@pytest.mark.parametrize("path", shipped_runs(), ids=lambda p: p.stem)
def test_every_shipped_config_loads_by_name(path: Path) -> None:
    assert load_config(path.stem).name == path.stem


def test_the_resolved_config_loads_back_to_the_same(tmp_path: Path) -> None:
    first = load_config("demo")
    again = load_config(written(tmp_path, first.as_yaml()))
    assert again == first
    assert again.sha256() == first.sha256()


def test_defaults_and_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    config = load_config(path, ["as_numpy=true", "source.seed=7", "grab.depth=2"])
    assert config.as_numpy is True
    assert config.source.model_dump()["seed"] == 7
    assert config.grab.depth == 2
    assert config.sha256() != load_config(path).sha256()


@pytest.mark.parametrize("detail", ["frame", "second", "off"])
def test_the_detail_of_the_log_is_a_word_also_where_yaml_sees_a_bool(
    tmp_path: Path, detail: str
) -> None:
    config = load_config(written(tmp_path, MINIMAL + f"kpi: {{detail: {detail}}}\n"))
    assert config.kpi.detail == detail
    assert load_config(written(tmp_path, config.as_yaml())) == config


def test_an_override_may_switch_a_section_off(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, MINIMAL), ["http=null"]).http is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL + "colour: red\n", ["colour", "unknown key"]),
        (MINIMAL + "devise: cpu\n", ["devise", "unknown key", "device"]),
        (MINIMAL.replace("seed: 1", "sead: 1"), ["source.sead", "unknown key", "seed"]),
        (MINIMAL + "grab: {dept: 3}\n", ["grab.dept", "unknown key", "depth"]),
        (MINIMAL.replace("name: t\n", ""), ["name", "missing"]),
        (MINIMAL + "name: u\n", ["duplicate key 'name'", "line 5"]),
        (MINIMAL.replace("max_objects: 2", "max_objects: many"), ["max_objects", "'many'", "int"]),
        (MINIMAL.replace("max_objects: 2", "max_objects: 0"), ["max_objects", "0", "greater"]),
        (MINIMAL.replace("kind: phantom", "kind: camera9"), ["source", "camera9", "phantom"]),
        (MINIMAL.replace("kind: phantom, ", ""), ["source", "kind", "phantom"]),
        (MINIMAL.replace("{kind: none}", "none"), ["detector", "section"]),
        (MINIMAL + "device: gpu\n", ["device", "'gpu'"]),
        (MINIMAL + "http: {port: 65536}\n", ["http.port", "65536"]),
        (MINIMAL + "kpi: {detail: minute}\n", ["kpi.detail", "'minute'", "second"]),
        (MINIMAL + "kpi: {detail: on}\n", ["kpi.detail", "True", "'off'"]),
        (MINIMAL + "kpi: {flush_s: 60}\n", ["kpi.flush_s", "60"]),
        (MINIMAL + "kpi: {keep_files: 0}\n", ["kpi.keep_files", "0"]),
        (MINIMAL + "http: {hung_after_s: 0}\n", ["http.hung_after_s", "0", "greater"]),
        (MINIMAL + "http: {host: a b}\n", ["http.host", "'a b'"]),
        (MINIMAL + "kpi: {latency_budget_ms: 0}\n", ["kpi.latency_budget_ms", "0", "greater"]),
        (MINIMAL + "results: {expect_subscribers: -1}\n", ["results.expect_subscribers", "-1"]),
        (MINIMAL + "mask_threshold: .nan\n", ["mask_threshold", "nan"]),
        ("a: [1, 2\n", ["line", "expected"]),
        ("\t- x", ["line"]),
        ("", ["nothing", "expected keys"]),
        ("- 1\n- 2\n", ["list", "expected keys"]),
        ("a: &x [1]\nb: *x\n", ["aliases"]),
        ("a: !!python/object/apply:os.system ['true']\n", ["line 1", "tag"]),
        (b"\xff\xfe\x00a", ["UTF-8"]),
        (b"\x00\x01\x02", ["not YAML"]),
        ("a: " + "[" * 5000, ["nested"]),
        ("#" * (1 << 21), ["larger"]),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    path = written(tmp_path, text)
    message = refusal(path)
    assert path in message
    for part in expected:
        assert part in message


def test_a_python_tag_is_not_executed(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = f"a: !!python/object/apply:os.system ['touch {marker}']\n"
    refusal(written(tmp_path, text))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("nonsense", "expected KEY.KEY=VALUE"),
        ("=1", "expected KEY.KEY=VALUE"),
        ("a..b=1", "expected KEY.KEY=VALUE"),
        ("name.first=x", "name is a value"),
        ("source.no_such_key=1", "source.no_such_key: unknown key (expected one of kind, "),
        ("no.such=1", "no: unknown key"),
        ("source.seed=[1", "--set source.seed=[1"),
        ("source.seed=-1", "source.seed"),
    ],
)
def test_a_bad_override_is_one_line(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in refusal(written(tmp_path, MINIMAL), override)


def test_a_missing_config_names_the_shipped_ones() -> None:
    message = refusal("no_such_config")
    assert "no_such_config" in message
    assert "demo" in message


def test_what_starts_prometheus_is_no_config_of_a_run() -> None:
    assert (shipped_configs() / "compose.yaml").is_file()
    message = refusal("compose")
    assert "no such file" in message
    offered = message.rsplit("one of ", 1)[1]
    assert "demo" in offered
    assert "compose" not in offered


def test_a_folder_is_not_a_config(tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path))


def test_values_never_change() -> None:
    config = load_config("demo")
    with pytest.raises(Exception, match="frozen"):
        config.name = "x"


def test_shipped_configs_say_what_they_are_for() -> None:
    for path in shipped_configs().rglob("*.yaml"):
        assert path.read_text().startswith("# "), path
        assert isinstance(yaml.safe_load(path.read_text()), dict)
    assert RunConfig.__doc__
