"""Cluster, volumes and staging job: filled in from the settings they are valid, and each setting has its effect."""

import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from infra.settings import SETTINGS, SettingsError, fill

SET = {
    "AWS_REGION": "eu-west-1",
    "AVAILABILITY_ZONE": "eu-west-1a",
    "BUCKET": "our-bucket",
    "DATA_PREFIX": "sets/coco",
    "IMAGE": "registry.example/mrcnn:1",
    "CLUSTER_NAME": "our-cluster",
    "KUBERNETES_VERSION": "1.34",
    "NAMESPACE": "jobs",
    "NODE_TYPE": "p5.48xlarge",
    "NODES": "7",
    "SUBNET_ID": "subnet-0123456789abcdef0",
    "SECURITY_GROUP_ID": "sg-0123456789abcdef0",
    "FSX_ID": "fs-0123456789abcdef0",
    "FSX_MOUNT_NAME": "abcdefgh",
    "FSX_GIB": "2400",
}
# Other values, which change what is filled in.
OTHER = {
    **{name: f"{value[:-1]}{'9' if value[-1] != '9' else '8'}" for name, value in SET.items()},
    "AVAILABILITY_ZONE": "eu-west-1b",
    "CLUSTER_NAME": "another",
}
FILES = {
    "cluster.yaml": {
        "AWS_REGION", "AVAILABILITY_ZONE", "BUCKET", "CLUSTER_NAME", "KUBERNETES_VERSION", "NAMESPACE", "NODE_TYPE",
        "NODES",
    },
    "fsx-static.yaml": {"AWS_REGION", "FSX_ID", "FSX_MOUNT_NAME", "FSX_GIB", "NAMESPACE"},
    "fsx-dynamic.yaml": {"SUBNET_ID", "SECURITY_GROUP_ID", "FSX_GIB", "NAMESPACE"},
    "s3-data.yaml": {"AWS_REGION", "BUCKET", "DATA_PREFIX", "NAMESPACE"},
    "stage.yaml": {"AWS_REGION", "BUCKET", "DATA_PREFIX", "IMAGE", "NAMESPACE"},
    "values.yaml": {"IMAGE"},
}  # fmt: skip


def load(root, name, settings=SET):
    text = (root / "infra/eks" / name).read_text()
    return list(yaml.safe_load_all(fill(text, settings, user=name)))


@pytest.mark.parametrize("name", ["fsx-static.yaml", "fsx-dynamic.yaml", "s3-data.yaml", "stage.yaml"])
def test_core_objects_are_valid(root, name):
    for item in load(root, name):
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


def test_the_cluster_is_valid(root, schemas):
    schema = json.loads((schemas / "eksctl_v1alpha5.json").read_text())
    (cluster,) = load(root, "cluster.yaml")
    jsonschema.validate(cluster, schema)
    cluster["managedNodeGroups"][1]["efaEnable"] = True
    with pytest.raises(jsonschema.ValidationError, match="efaEnable"):
        jsonschema.validate(cluster, schema)


@pytest.mark.parametrize(("name", "setting"), [(name, setting) for name in FILES for setting in sorted(FILES[name])])
def test_each_setting_is_needed_and_has_an_effect(root, name, setting):
    assert load(root, name, {**SET, setting: OTHER[setting]}) != load(root, name)
    with pytest.raises(SettingsError, match=f"^{name} needs {setting}, "):
        load(root, name, {key: value for key, value in SET.items() if key != setting})


@pytest.mark.parametrize("name", FILES)
def test_a_file_needs_no_other_setting(root, name):
    load(root, name, {key: SET[key] for key in FILES[name]})
    assert {*FILES} == {path.name for path in (root / "infra/eks").glob("*.yaml")}


def test_the_gpu_nodes(root):
    (cluster,) = load(root, "cluster.yaml")
    groups = {group["name"]: group for group in cluster["managedNodeGroups"]}
    gpu = groups["gpu"]
    assert gpu["amiFamily"] == "AmazonLinux2023"
    assert gpu["efaEnabled"] is True
    assert gpu["instanceType"] == "p5.48xlarge"
    assert (gpu["desiredCapacity"], gpu["maxSize"]) == (7, 7)
    assert gpu["availabilityZones"] == ["eu-west-1a"]
    # The chart's pods ask for this label and bear this taint.
    values = yaml.safe_load((root / "infra/eks/chart/values.yaml").read_text())
    assert values["nodeSelector"].items() <= gpu["labels"].items()
    assert [toleration["key"] for toleration in values["tolerations"]] == [taint["key"] for taint in gpu["taints"]]


def test_permissions_are_roles_of_service_accounts_and_one_bucket(root):
    (cluster,) = load(root, "cluster.yaml")
    assert cluster["iam"]["withOIDC"] is True
    policies = [entry["attachPolicy"] for entry in (*cluster["iam"]["serviceAccounts"], *cluster["addons"]) if
                "attachPolicy" in entry]  # fmt: skip
    resources = {statement["Resource"] for policy in policies for statement in policy["Statement"]}
    assert resources == {"arn:aws:s3:::our-bucket", "arn:aws:s3:::our-bucket/*"}
    (stage,) = load(root, "stage.yaml")
    accounts = [account["metadata"] for account in cluster["iam"]["serviceAccounts"]]
    assert {"name": stage["spec"]["template"]["spec"]["serviceAccountName"], "namespace": "jobs"} in accounts


def test_claims_are_those_that_the_chart_and_the_staging_job_mount(root):
    values = yaml.safe_load((root / "infra/eks/chart/values.yaml").read_text())
    (stage,) = load(root, "stage.yaml")
    staged = stage["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert values["volumes"][0]["claim"] == staged
    for name in ("fsx-static.yaml", "fsx-dynamic.yaml"):
        claim = next(item for item in load(root, name) if item["kind"] == "PersistentVolumeClaim")
        assert claim["metadata"] == {"name": staged, "namespace": "jobs"}
    volume, claim = load(root, "s3-data.yaml")
    assert "read-only" in volume["spec"]["mountOptions"]
    assert claim["spec"]["accessModes"] == ["ReadOnlyMany"]


def test_the_staging_job_brings_the_data_to_where_the_chart_looks(root):
    values = yaml.safe_load((root / "infra/eks/chart/values.yaml").read_text())
    pod = load(root, "stage.yaml")[0]["spec"]["template"]["spec"]
    command = pod["containers"][0]["command"]
    assert command[1:4] == ["-m", "infra.data.stage", "down"]
    assert command[4] == "s3://our-bucket/sets/coco"
    assert command[5] == values["dataRoot"]
    assert {values["dataRoot"], values["runs"]} <= set(pod["initContainers"][0]["command"])


HARD_CODED = (
    r"\b\d{12}\b",  # account
    r"\b(fs|subnet|sg|vpc|ami|i)-[0-9a-f]{8,17}\b",
    r"AKIA[0-9A-Z]{16}",
    r"\.dkr\.ecr\.",
    r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b",
)


def test_nothing_of_an_account_is_written_down(root):
    allowed = {"0.0.0.0", "127.0.0.1", "127.0.1.1"}
    for path in (root / "infra").rglob("*"):
        if path.suffix in (".yaml", ".json", ".sh", ".py", ".md", ".example", ".txt") and "tests" not in path.parts:
            for pattern in HARD_CODED:
                found = {match[0] for match in re.finditer(pattern, path.read_text())} - allowed
                assert not found, f"{path}: {found}"


def test_no_object_is_a_secret(root):
    for path in (root / "infra/eks").rglob("*.yaml"):
        assert not re.search(r"kind: Secret|secretKeyRef|AWS_SECRET", path.read_text()), path


def test_the_table_covers_the_settings_of_eks():
    used = set().union(*FILES.values())
    assert used == {name for name in SETTINGS if not name.startswith("SAGEMAKER")}
