"""deploy/: what can be checked without a cluster. Dockerfiles, compose and scripts are linted by hand: docs/cluster.md."""

import importlib
import json
from pathlib import Path

import pytest
import yaml
from prefect.utilities.schema_tools.validation import validate
from prefect.utilities.templating import apply_values, find_placeholders

ROOT = Path(__file__).resolve().parents[2]


def manifest(kind, **values):
    """The Kubernetes job that Prefect makes of a pool's template."""
    template = json.loads((ROOT / f"deploy/kubernetes-{kind}.json").read_text())
    schema = template["variables"]
    validate(values, schema, raise_on_error=True, preprocess=False)
    defaults = {
        name: p["default"] for name, p in schema["properties"].items() if p.get("default") is not None
    }
    named = {p.name for p in find_placeholders(template["job_configuration"])}
    assert named == set(schema["properties"])  # none undeclared, none unused
    return apply_values(template["job_configuration"], {**defaults, **values}, remove_notset=True)[
        "job_manifest"
    ]


def test_a_gpu_stage_asks_for_cards_and_a_cpu_stage_does_not():
    command = ["prefect", "flow-run", "execute"]
    made = manifest("gpu", gpus=4, memory="200Gi", name="fit-0", command=" ".join(command))
    pod = made["spec"]["template"]["spec"]
    wanted = {"cpu": "8", "memory": "200Gi", "nvidia.com/gpu": 4}
    assert pod["containers"][0]["resources"]["requests"] == wanted
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 4
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu" and made["spec"]["backoffLimit"] == 0
    other = manifest("cpu", name="speech")["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in json.dumps(other) and other["containers"][0]["image"] == "audioavatar:cpu"
    with pytest.raises(Exception, match="minimum"):
        manifest("gpu", gpus=0)


def test_every_deployment_names_a_flow_that_is_there():
    document = yaml.safe_load((ROOT / "deploy/prefect.yaml").read_text())
    names = {}
    for deployment in document["deployments"]:
        path, flow = deployment["entrypoint"].split(":")
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        names[deployment["name"]] = (getattr(module, flow).name, deployment["work_pool"]["name"])
    assert names == {
        "cpu": ("audioavatar-worker", "audioavatar-cpu"),
        "gpu": ("audioavatar-worker", "audioavatar-gpu"),
        "speak-cpu": ("audioavatar-speaker", "audioavatar-cpu"),
        "speak-gpu": ("audioavatar-speaker", "audioavatar-gpu"),
    }


def test_compose_runs_what_the_images_and_pools_have():
    document = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    services = document["services"]
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            assert needed in services, (name, needed)
        if build := service.get("build"):
            dockerfile = ROOT / build["dockerfile"]
            assert dockerfile.is_file() and service["image"] == f"audioavatar:{dockerfile.suffix[1:]}"
    pools = (ROOT / "deploy/pools.sh").read_text()
    assert (
        services["deployments"]["command"] == "bash deploy/pools.sh process" and "audioavatar-$pool" in pools
    )
