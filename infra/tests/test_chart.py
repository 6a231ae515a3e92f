"""The chart renders what Kubernetes and the MPI operator accept; each value changes the objects that it should."""

import copy
import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

CHART = "infra/eks/chart"
IMAGE = "registry.example/mrcnn:1"
CORE = ("ConfigMap", "Deployment", "Service")


def render(helm, values=None, *, release="run1"):
    text = yaml.safe_dump({"image": IMAGE, **(values or {})})
    code, out, err = helm("template", release, CHART, "--namespace", "jobs", "-f", "-", stdin=text)
    assert code == 0, err
    return {f"{item['kind']}": item for item in yaml.safe_load_all(out) if item}


def refusal(helm, values, *, release="run1"):
    text = yaml.safe_dump({"image": IMAGE, **values})
    code, out, err = helm("template", release, CHART, "-f", "-", stdin=text)
    assert code != 0
    assert out == ""
    return err


@pytest.fixture(scope="module")
def rendered(helm):
    return render(helm)


def at(item, path):
    """Return the part of an object at `a.b.0.c`, or None; write `nvidia/com/gpu` for nvidia.com/gpu."""
    for step in path.split("."):
        if isinstance(item, list):
            item = item[int(step)] if int(step) < len(item) else None
        elif isinstance(item, dict):
            item = item.get(step, item.get(step.replace("/", ".", 1)))
    return item


LAUNCHER = "spec.mpiReplicaSpecs.Launcher.template.spec"
WORKER = "spec.mpiReplicaSpecs.Worker.template.spec"


def environment(container):
    return {entry["name"]: entry["value"] for entry in container["env"]}


def pods(objects):
    specs = objects["MPIJob"]["spec"]["mpiReplicaSpecs"]
    return [specs[name]["template"]["spec"] for name in ("Launcher", "Worker") if name in specs]


def in_pods(path, value):
    return lambda objects: all(at(pod, path) == value for pod in pods(objects))


def has_argument(*arguments):
    return lambda objects: list(arguments) == pods(objects)[0]["containers"][0]["args"][4 : 4 + len(arguments)]


def in_job(path, value):
    return lambda objects: at(objects["MPIJob"], path) == value


def in_board(path, value):
    return lambda objects: at(objects["Deployment"]["spec"]["template"]["spec"], path) == value


def of_launcher(name, value):
    return lambda objects: environment(pods(objects)[0]["containers"][0]).get(name) == value


def everywhere(*checks):
    return lambda objects: all(check(objects) for check in checks)


MOUNTS = "containers.0.volumeMounts"
TWO_VOLUMES = [
    {"name": "fsx", "claim": "mrcnn-fsx", "kind": "lustre", "path": "/fsx"},
    {"name": "data", "claim": "mrcnn-s3", "kind": "s3", "path": "/fsx/s3"},
]
ALL = {"MPIJob", "Deployment"}
# value, what it is set to, the kinds of objects that change, and what is true then
CHANGES = {
    "image": (
        "r/n:2",
        ALL,
        everywhere(in_pods("containers.0.image", "r/n:2"), in_board("containers.0.image", "r/n:2")),
    ),
    "imagePullPolicy": ("Always", ALL, in_pods("containers.0.imagePullPolicy", "Always")),
    "experiment": (
        "8x4_12ep",
        {"MPIJob"},
        lambda objects: pods(objects)[0]["containers"][0]["args"][0] == "+experiment=8x4_12ep",
    ),
    "overrides": (
        ["train.max_steps=5", "~data.synthetic", "a.b=$(HOME) 'x'"],
        {"MPIJob"},
        has_argument("train.max_steps=5", "~data.synthetic", "a.b=$$(HOME) 'x'"),
    ),
    "env": (
        {"NCCL_DEBUG": "INFO"},
        {"MPIJob"},
        everywhere(
            of_launcher("NCCL_DEBUG", "INFO"),
            of_launcher("RANK_ENVIRONMENT", "FI_PROVIDER NCCL_DEBUG"),
            lambda objects: environment(pods(objects)[1]["containers"][0])["NCCL_DEBUG"] == "INFO",
        ),
    ),
    "nodes": (
        3,
        {"MPIJob"},
        everywhere(in_job("spec.mpiReplicaSpecs.Worker.replicas", 2), of_launcher("PROCESSES", "24")),
    ),
    "slotsPerWorker": (
        4,
        {"MPIJob"},
        everywhere(
            in_job("spec.slotsPerWorker", 4),
            of_launcher("PROCESSES", "16"),
            in_pods("containers.0.resources.limits.nvidia/com/gpu", "4"),
        ),
    ),
    "gpu": (
        False,
        {"MPIJob"},
        lambda objects: all(
            "nvidia.com/gpu" not in pod["containers"][0]["resources"]["limits"] and "affinity" not in pod
            for pod in pods(objects)
        ),
    ),
    "efa": (
        0,
        {"MPIJob"},
        lambda objects: all(
            {"vpc.amazonaws.com/efa", "hugepages-2Mi"}.isdisjoint(pod["containers"][0]["resources"]["limits"])
            and "hugepages" not in [volume["name"] for volume in pod["volumes"]]
            and "FI_PROVIDER" not in environment(pod["containers"][0])
            for pod in pods(objects)
        ),
    ),
    "hugepages2Mi": ("256Mi", {"MPIJob"}, in_pods("containers.0.resources.limits.hugepages-2Mi", "256Mi")),
    "cpu": ("7", {"MPIJob"}, in_pods("containers.0.resources.requests.cpu", "7")),
    "memory": ("9Gi", {"MPIJob"}, in_pods("containers.0.resources.limits.memory", "9Gi")),
    "sharedMemory": ("2Gi", {"MPIJob"}, in_pods("volumes.0.emptyDir.sizeLimit", "2Gi")),
    "volumes": (
        TWO_VOLUMES,
        ALL,
        everywhere(
            in_pods(
                "volumes.4", {"name": "data", "persistentVolumeClaim": {"claimName": "mrcnn-s3", "readOnly": True}}
            ),
            in_pods(f"{MOUNTS}.4", {"name": "data", "mountPath": "/fsx/s3", "readOnly": True}),
            in_board("volumes.1.persistentVolumeClaim.claimName", "mrcnn-s3"),
        ),
    ),
    "dataRoot": (
        "/fsx/other",
        {"MPIJob"},
        lambda objects: pods(objects)[0]["containers"][0]["args"][1] == "data.root=/fsx/other",
    ),
    "runs": (
        "/fsx/elsewhere",
        ALL,
        everywhere(
            of_launcher("RUN_DIR", "/fsx/elsewhere/run1"),
            lambda objects: pods(objects)[0]["containers"][0]["args"][2] == "run.dir=/fsx/elsewhere/run1",
            in_board("containers.0.args.0", "--logdir=/fsx/elsewhere/run1/tensorboard"),
        ),
    ),
    "user": (
        1234,
        ALL,
        everywhere(in_pods("securityContext.runAsUser", 1234), in_board("securityContext.fsGroup", 1234)),
    ),
    "home": (
        "/home/other",
        {"MPIJob"},
        everywhere(in_job("spec.sshAuthMountPath", "/home/other/.ssh"), of_launcher("HOME", "/home/other")),
    ),
    "sshPort": (
        2022,
        {"MPIJob"},
        everywhere(
            of_launcher("SSH_PORT", "2022"), in_job(f"{WORKER}.containers.0.readinessProbe.tcpSocket.port", 2022)
        ),
    ),
    "serviceAccount": ("other", {"MPIJob"}, in_pods("serviceAccountName", "other")),
    "retries": (1, {"MPIJob"}, in_job("spec.runPolicy.backoffLimit", 1)),
    "graceSeconds": (33, {"MPIJob"}, in_pods("terminationGracePeriodSeconds", 33)),
    "preflight": (False, {"MPIJob"}, of_launcher("PREFLIGHT", "false")),
    "suspend": (True, {"MPIJob"}, in_job("spec.runPolicy.suspend", True)),
    "nodeSelector": ({"a": "b"}, {"MPIJob"}, in_pods("nodeSelector.a", "b")),
    "tolerations": ([], {"MPIJob"}, lambda objects: all("tolerations" not in pod for pod in pods(objects))),
    "tensorboard.enabled": (False, {"Deployment", "Service"}, lambda objects: set(objects) == {"ConfigMap", "MPIJob"}),
    "tensorboard.port": (
        7007,
        {"Deployment", "Service"},
        everywhere(
            in_board("containers.0.args.2", "--port=7007"),
            lambda objects: objects["Service"]["spec"]["ports"] == [{"port": 7007, "targetPort": 7007}],
        ),
    ),
    "tensorboard.cpu": ("2", {"Deployment"}, in_board("containers.0.resources.limits.cpu", "2")),
    "tensorboard.memory": ("5Gi", {"Deployment"}, in_board("containers.0.resources.requests.memory", "5Gi")),
}


def test_the_chart_lints(helm):
    code, out, err = helm("lint", "--strict", CHART, "--set", f"image={IMAGE}")
    assert code == 0, out + err


def values_of(path, value):
    """Return {"a": {"b": value}} for a.b."""
    for step in reversed(path.split(".")):
        value = {step: value}
    return value


@pytest.mark.parametrize("path", CHANGES)
def test_each_value_changes_the_objects_that_it_should(helm, rendered, path):
    value, kinds, is_true = CHANGES[path]
    assert not is_true(rendered), "true before the change"
    changed = render(helm, values_of(path, value))
    differing = {kind for kind in {*rendered, *changed} if rendered.get(kind) != changed.get(kind)}
    assert differing == kinds
    assert is_true(changed)


def test_every_value_is_in_the_table(root):
    values = yaml.safe_load((root / CHART / "values.yaml").read_text())
    names = {f"tensorboard.{name}" for name in values.pop("tensorboard")} | set(values)
    assert names == set(CHANGES)
    assert names == {*WRONG, "overrides"}, "overrides have a test of their wrong values below"
    schema = json.loads((root / CHART / "values.schema.json").read_text())
    assert set(schema["properties"]) - {"global"} == {*values, "tensorboard"}


WRONG = {
    "image": "no-tag",
    "imagePullPolicy": "Sometimes",
    "experiment": "a b",
    "env": {"1X": "y"},
    "nodes": 0,
    "slotsPerWorker": 0,
    "gpu": "yes",
    "efa": -1,
    "hugepages2Mi": "5120",
    "cpu": "0",
    "memory": "lots",
    "sharedMemory": "64GB",
    "volumes": [],
    "dataRoot": "coco",
    "runs": "runs/",
    "user": 0,
    "home": "~",
    "sshPort": 22,
    "serviceAccount": "A",
    "retries": -1,
    "graceSeconds": 0,
    "preflight": "no",
    "suspend": 1,
    "nodeSelector": {"a": 1},
    "tolerations": {},
    "tensorboard.enabled": "yes",
    "tensorboard.port": 80,
    "tensorboard.cpu": "1.5.",
    "tensorboard.memory": "4",
}


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_value_is_refused_by_name(helm, path):
    assert f"/{path.replace('.', '/')}" in refusal(helm, values_of(path, WRONG[path]))


@pytest.mark.parametrize(
    "override",
    ["run.dir=/x", "resume=auto", "launch.processes=2", "data.root=/x", "+experiment=demo", "max steps", "--help", ""],
)
def test_an_override_that_the_chart_sets_or_that_is_none_is_refused(helm, override):
    assert "/overrides/0" in refusal(helm, {"overrides": [override]})


def test_an_unknown_value_is_refused_by_name(helm):
    assert "slots" in refusal(helm, {"slots": 8})


VOLUME = {"name": "fsx", "claim": "c", "kind": "lustre", "path": "/fsx"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": ""}, "image is not set"),
        ({"volumes": [{**VOLUME, "kind": "s3"}]}, "runs=/fsx/runs lies in volume fsx of kind s3, which cannot rename"),
        ({"volumes": TWO_VOLUMES, "runs": "/fsx/s3/runs"}, "runs=/fsx/s3/runs lies in volume data of kind s3"),
        ({"runs": "/fsx2/runs"}, "runs=/fsx2/runs lies in no volume"),
        ({"dataRoot": "/data"}, "dataRoot=/data lies in no volume"),
        ({"volumes": [VOLUME, VOLUME]}, "the name fsx is taken"),
        ({"volumes": [VOLUME, {**VOLUME, "name": "other"}]}, "two of them have the path /fsx"),
        ({"volumes": [{**VOLUME, "name": "shm"}]}, "the name shm is taken"),
    ],
)
def test_what_the_schema_cannot_see_is_refused_by_name(helm, values, message):
    assert message in refusal(helm, values)


def test_a_release_name_that_is_too_long_for_pods_is_refused(helm):
    assert "longer than 40 letters" in refusal(helm, {}, release="r" * 41)


def test_data_may_lie_in_s3(helm):
    objects = render(helm, {"volumes": TWO_VOLUMES, "dataRoot": "/fsx/s3"})
    assert "data.root=/fsx/s3" in pods(objects)[0]["containers"][0]["args"]


def test_the_job_starts_or_goes_on_when_all_workers_are_ready(rendered):
    spec = rendered["MPIJob"]["spec"]
    assert spec["launcherCreationPolicy"] == "WaitForWorkersReady"
    assert spec["runLauncherAsWorker"] is True
    assert spec["mpiReplicaSpecs"]["Launcher"]["replicas"] == 1
    assert pods(rendered)[0]["containers"][0]["args"] == [
        "+experiment=32x4_24ep", "data.root=/fsx/coco", "run.dir=/fsx/runs/run1", "resume=auto",
    ]  # fmt: skip
    limits = pods(rendered)[1]["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["vpc.amazonaws.com/efa"], limits["hugepages-2Mi"]) == ("8", "4", "5120Mi")


def test_one_machine_has_no_workers(helm):
    assert set(render(helm, {"nodes": 1})["MPIJob"]["spec"]["mpiReplicaSpecs"]) == {"Launcher"}


def test_the_scripts_in_the_objects_are_the_files(rendered, root):
    files = {path.name: path.read_text() for path in (root / CHART / "files").iterdir()}
    assert rendered["ConfigMap"]["data"] == files


def test_the_trial_without_gpus_of_the_readme(helm, root):
    (values,) = re.findall(r"`--set (gpu=false[^`]*)`", (root / "infra/README.md").read_text())
    code, out, err = helm("template", "run1", CHART, "--set", f"image={IMAGE}", "--set", values)
    assert code == 0, err
    job = next(item for item in yaml.safe_load_all(out) if item and item["kind"] == "MPIJob")
    for pod in pods({"MPIJob": job}):
        assert pod["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "8Gi"}
        assert "nodeSelector" not in pod


CASES = [{}, {"nodes": 1, "efa": 0, "gpu": False}, {"volumes": TWO_VOLUMES}, {"suspend": True, "overrides": ["a=b"]}]


@pytest.mark.parametrize("values", CASES)
def test_core_objects_are_valid(helm, values):
    for item in render(helm, values).values():
        if item["kind"] in CORE:
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("values", CASES)
def test_the_mpijob_is_valid(helm, schemas, values):
    schema = closed(json.loads((schemas / "mpijob_kubeflow_v2beta1.json").read_text()))
    jsonschema.validate(render(helm, values)["MPIJob"], schema)


def test_the_schema_of_mpijob_finds_a_wrong_name(helm, schemas):
    schema = closed(json.loads((schemas / "mpijob_kubeflow_v2beta1.json").read_text()))
    job = render(helm)["MPIJob"]
    wrong = copy.deepcopy(job)
    wrong["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["image_"] = "x"
    with pytest.raises(jsonschema.ValidationError, match="image_"):
        jsonschema.validate(wrong, schema)


def closed(schema):
    """Make a schema refuse properties that it does not list (but any metadata), as `kubectl --validate=strict` does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(result.get("properties"), dict) and "additionalProperties" not in result:
        result["additionalProperties"] = False
    return result
