"""What cluster/ ships: each file against its schema, and all of them against each other and the experiment they run."""

from __future__ import annotations

import copy
import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import typer
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from raydfkd.cli.main import app
from raydfkd.pipeline.experiment.config import load_experiment
from raydfkd.runtime.preflight import demands, refusal_of

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
RAY_UP = ("ray-up-aws.yaml", "ray-up-onprem.yaml")
KUBERAY = ("storage.yaml", "raycluster.yaml", "rayjob.yaml")
IN_IMAGE = "/opt/raydfkd/"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))


def kuberay_schema() -> dict[str, Any]:
    schema: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("kuberay_schema.yaml").read_text(encoding="utf-8"))
    return schema


def test_every_file_is_tested() -> None:
    found = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()}
    tested = {*RAY_UP, *(f"kuberay/{name}" for name in KUBERAY), "experiment.yaml", "Dockerfile", "prometheus.yml"}
    grafana = {"dashboard.json", "provisioning/dashboards/raydfkd.yml", "provisioning/datasources/prometheus.yml"}
    assert found == tested | {f"grafana/{name}" for name in grafana} | {"README.md", "CAPACITY.md", "FAULTS.md"}


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_files_are_as_ray_s_schema_says(name: str) -> None:
    config = read(name)
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(config, schema)
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config | {"min_workers": 1}, schema)


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_files_are_as_the_reference_says(name: str) -> None:
    schema = kuberay_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(read(f"kuberay/{name}"))


def _paths(node: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every mapping of the Ray levels is."""
    if not isinstance(node, dict | list):
        return []
    pairs = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
    free = above and above[-1] in ("rayStartParams", "metadata", "limits", "requests")
    here = [above] if isinstance(node, dict) and not free else []
    return here + [path for key, child in pairs for path in _paths(child, (*above, key))]


@pytest.mark.parametrize("name", KUBERAY)
def test_a_misspelt_key_fails_at_every_level(name: str) -> None:
    validator = jsonschema.Draft202012Validator(kuberay_schema())
    manifest = read(f"kuberay/{name}")
    for path in _paths(manifest):
        changed = copy.deepcopy(manifest)
        node = changed
        for key in path:
            node = node[key]
        node["replica"] = 1
        assert not validator.is_valid(changed), path


def test_the_job_s_cluster_is_the_standing_one() -> None:
    assert read("kuberay/rayjob.yaml")["spec"]["rayClusterSpec"] == read("kuberay/raycluster.yaml")["spec"]


def kuberay_nodes(spec: dict[str, Any]) -> list[dict[str, float]]:
    """What Ray would see of the pods at their smallest numbers."""
    head = float(spec["headGroupSpec"]["rayStartParams"]["num-cpus"])
    nodes = [{"CPU": head}]
    for group in spec["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        custom = json.loads(json.loads(group["rayStartParams"]["resources"]))
        nodes += [{"CPU": float(limits["cpu"]), "GPU": limits["nvidia.com/gpu"], **custom}] * group["minReplicas"]
    return nodes


def aws_nodes() -> list[dict[str, float]]:
    types = read("ray-up-aws.yaml")["available_node_types"]
    return [dict(kind["resources"]) for kind in types.values() for _ in range(kind.get("min_workers", 1))]


@pytest.mark.parametrize("nodes", [kuberay_nodes(read("kuberay/raycluster.yaml")["spec"]), aws_nodes()], ids=["kuberay", "aws"])
def test_the_example_fits_at_once_and_each_role_on_its_own_nodes(nodes: list[dict[str, float]]) -> None:
    wanted = demands(load_experiment(CLUSTER / "experiment.yaml"))
    assert refusal_of(wanted, nodes) is None
    for role in ("gen_node", "student_node"):
        others = [node for node in nodes if role not in node]
        assert len(others) < len(nodes)
        refusal = refusal_of(wanted, others)
        assert refusal is not None
        assert role in refusal


def test_groups_can_grow_and_the_pods_have_what_ray_needs() -> None:
    spec = read("kuberay/raycluster.yaml")["spec"]
    assert spec["enableInTreeAutoscaling"]
    assert spec["authOptions"] == {"mode": "token"}
    groups = spec["workerGroupSpecs"]
    assert all(group["minReplicas"] <= group["replicas"] < group["maxReplicas"] for group in groups)
    claim = read("kuberay/storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in [spec["headGroupSpec"], *groups]:
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert mounts["/mnt/runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert group["rayStartParams"]["metrics-export-port"] == "8080"


def test_versions_agree() -> None:
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if re.fullmatch(r"[\w.-]+==[\w.]+", line)
    )
    assert read("kuberay/raycluster.yaml")["spec"]["rayVersion"] == constraints["ray"]
    base = re.search(r"^FROM python:(\d+)\.(\d+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert base is not None
    assert tuple(map(int, base.groups())) >= tuple(map(int, oldest.removeprefix(">=").split(".")))


def test_the_image_copies_what_exists_and_names_no_package_host() -> None:
    text = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text())
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    assert {line[0] for line in lines} <= {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV"}
    sources = [source for line in lines if line[0] == "COPY" for source in line[1:-1]]
    assert {"pyproject.toml", "constraints.txt", "raydfkd", "cluster"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert "://" not in " ".join(word for line in lines for word in line)


def entry_commands() -> list[str]:
    """What the files run, and what their comments tell to type."""
    commands = [read("kuberay/rayjob.yaml")["spec"]["entrypoint"]]
    for path in sorted(CLUSTER.rglob("*")):
        if path.suffix in (".yaml", ".yml"):
            commands += re.findall(r"^#\s+.*?(raydfkd \w.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return commands


def test_the_verbs_take_what_is_typed_in_the_files() -> None:
    group = typer.main.get_command(app)
    commands = entry_commands()
    assert len(commands) >= 3
    for command in commands:
        program, verb, *words = shlex.split(command.partition("   ")[0])
        assert program == "raydfkd"
        context = group.get_command(None, verb).make_context(verb, words, resilient_parsing=False)  # type: ignore[attr-defined, arg-type]
        assert not context.args, command


def test_the_job_s_experiment_is_in_the_image_and_checked() -> None:
    program, verb, experiment, *_ = shlex.split(read("kuberay/rayjob.yaml")["spec"]["entrypoint"])
    assert (program, verb) == ("raydfkd", "run")
    assert experiment.startswith(IN_IMAGE)
    config = load_experiment(ROOT / experiment.removeprefix(IN_IMAGE))
    assert config.runtime.runner == "ray"
    assert config.evaluation is None
    assert str(config.teacher.checkpoint).startswith("/mnt/runs/")


def test_prometheus_reads_ray_s_list_of_nodes() -> None:
    (job,) = read("prometheus.yml")["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert discovery["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]


def test_grafana_finds_the_dashboard_and_its_data() -> None:
    (provider,) = read("grafana/provisioning/dashboards/raydfkd.yml")["providers"]
    assert (provider["type"], list(provider["options"])) == ("file", ["path"])
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
