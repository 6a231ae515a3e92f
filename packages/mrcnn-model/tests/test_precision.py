"""Which precision `auto` stands for: the rule as a table of machines, the veto of the measurement, and who uses it."""

import time

import pytest
import tensorflow as tf

from mrcnn_model import PRECISIONS, ModelCard, PrecisionChoice, build_model, choose_precision, load_model, save_model
from mrcnn_model.config import precision as precision_module
from mrcnn_model.config.precision import choice_for_cpu, choice_for_gpu, cpu_flags, vetoed

CARD = ModelCard(class_names=["a", "b", "c"], category_ids=[1, 2, 3], short_edge=64, max_size=96, buckets=[[64, 96]])
ZEN_3 = {"avx", "avx2", "fma", "f16c"}
CASCADE_LAKE = {"avx2", "avx512f", "avx512_vnni"}
ZEN_4 = {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}
SAPPHIRE_RAPIDS = {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"}
OFF = {"TF_ENABLE_ONEDNN_OPTS": "0"}


@pytest.mark.parametrize(
    ("flags", "environment", "precision", "reason"),
    [
        (ZEN_3, {}, "float32", "CPU without bfloat16 instructions"),
        (CASCADE_LAKE, {}, "float32", "CPU without bfloat16 instructions"),
        (ZEN_4, {}, "mixed_bfloat16", "CPU with AVX-512 bfloat16"),
        (SAPPHIRE_RAPIDS, {}, "mixed_bfloat16", "CPU with AMX"),
        ({"amx_tile", "amx_int8"}, {}, "float32", "CPU without bfloat16 instructions"),
        (ZEN_4, OFF, "float32", "CPU with AVX-512 bfloat16, which TF_ENABLE_ONEDNN_OPTS turns off"),
        (SAPPHIRE_RAPIDS, {"TF_ENABLE_ONEDNN_OPTS": "False"}, "float32", "TF_ENABLE_ONEDNN_OPTS turns off"),
        (SAPPHIRE_RAPIDS, {"TF_ENABLE_ONEDNN_OPTS": "1"}, "mixed_bfloat16", "CPU with AMX"),
        (ZEN_3, OFF, "float32", "CPU without bfloat16 instructions"),
        (ZEN_4, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, "float32", "ONEDNN_MAX_CPU_ISA=AVX2 turns off"),
        (ZEN_4, {"DNNL_MAX_CPU_ISA": "avx512_core"}, "float32", "ONEDNN_MAX_CPU_ISA=AVX512_CORE turns off"),
        (ZEN_4, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "mixed_bfloat16", "CPU with AVX-512 bfloat16"),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "mixed_bfloat16", "CPU with AVX-512 bfloat16"),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "mixed_bfloat16", "CPU with AMX"),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "float32", "CPU with AMX, which ONEDNN_MAX"),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "ALL"}, "mixed_bfloat16", "CPU with AMX"),
        (None, {}, "float32", "no fast half precision known for "),
    ],
)
def test_cpus(flags, environment: dict[str, str], precision: str, reason: str) -> None:
    choice = choice_for_cpu(flags, environment)
    assert choice.precision == precision
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("name", "capability", "precision"),
    [
        ("Tesla K80", (3, 7), "float32"),
        ("Tesla P100-SXM2-16GB", (6, 0), "float32"),  # fast float16, but no tensor cores
        ("NVIDIA GeForce GTX 1080 Ti", (6, 1), "float32"),
        ("Tesla V100-SXM2-32GB", (7, 0), "mixed_float16"),
        ("Xavier", (7, 2), "mixed_float16"),
        ("Tesla T4", (7, 5), "mixed_float16"),
        ("NVIDIA GeForce RTX 2080", (7, 5), "mixed_float16"),
        ("Quadro RTX 4000", (7, 5), "mixed_float16"),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), "float32"),  # Turing without tensor cores
        ("NVIDIA T1000 8GB", (7, 5), "float32"),
        ("NVIDIA GeForce MX450", (7, 5), "float32"),
        ("NVIDIA A100-SXM4-40GB", (8, 0), "mixed_bfloat16"),
        ("NVIDIA A10G", (8, 6), "mixed_bfloat16"),
        ("NVIDIA L4", (8, 9), "mixed_bfloat16"),
        ("NVIDIA H100 80GB HBM3", (9, 0), "mixed_bfloat16"),
        ("NVIDIA B200", (10, 0), "mixed_bfloat16"),
        ("AMD Instinct MI250X", None, "float32"),
    ],
)
def test_gpus(name: str, capability: tuple[int, int] | None, precision: str) -> None:
    choice = choice_for_gpu(name, capability)
    assert choice.precision == precision
    assert name in choice.reason
    assert ("without tensor cores" in choice.reason) == (precision == "float32" and capability is not None)


def test_the_measurement_may_only_veto() -> None:
    fast = PrecisionChoice("mixed_bfloat16", "CPU with AMX")
    assert str(vetoed(fast, lambda: 4.93)) == "mixed_bfloat16 (auto: CPU with AMX, 4.9 times float32 here)"
    assert vetoed(fast, lambda: 1.5).precision == "mixed_bfloat16"
    slow = vetoed(fast, lambda: 1.49)
    assert slow == ("float32", "CPU with AMX, but bfloat16 is only 1.49 times as fast as float32 here")

    def fail() -> float:
        raise AssertionError("float32 is not measured")

    choice = PrecisionChoice("float32", "CPU without bfloat16 instructions")
    assert vetoed(choice, fail) == choice


def test_flags_of_this_system(tmp_path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16\nvmx flags\t: amx_bf16\n\nflags\t\t: fpu\n")
    assert cpu_flags(file) == {"fpu", "avx2", "avx512_bf16"}
    file.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")  # aarch64
    assert cpu_flags(file) is None
    assert cpu_flags(tmp_path / "missing") is None


class FakeGpu:
    """Shows TensorFlow's functions a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **details: object) -> None:
        monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["gpu"])
        monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
        monkeypatch.setattr(precision_module, "_bfloat16_gain", lambda: pytest.fail("the CPU does not matter"))


def test_a_gpu_decides_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch, device_name="Tesla V100", compute_capability=(7, 0))
    assert str(choose_precision()) == "mixed_float16 (auto: Tesla V100, compute capability 7.0)"
    FakeGpu(monkeypatch)
    assert choose_precision().precision == "float32"


def test_the_cpu_decides_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    monkeypatch.setattr(precision_module, "cpu_flags", lambda: frozenset(ZEN_4))
    monkeypatch.setattr(precision_module, "_bfloat16_gain", lambda: 2.94)
    for name in ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    reason = "CPU with AVX-512 bfloat16, 2.9 times float32 here"
    assert choose_precision() == PrecisionChoice("mixed_bfloat16", reason)
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert choose_precision().precision == "float32"


def test_the_measurement_on_this_machine() -> None:
    """A machine without the instructions computes bfloat16 as float32 with casts, which may take long."""
    if choice_for_cpu(cpu_flags(), {}).precision == "float32":
        pytest.skip("this CPU has no bfloat16 instructions")
    precision_module._bfloat16_gain.cache_clear()
    began = time.perf_counter()
    gain = precision_module._bfloat16_gain()
    assert 0.1 < gain < 50
    assert time.perf_counter() - began < 10
    assert precision_module._bfloat16_gain() == gain  # measured once


@pytest.mark.parametrize("precision", PRECISIONS)
def test_models_that_are_built_or_loaded(tmp_path, make_tiny_model, monkeypatch, precision: str) -> None:
    """A loaded model computes in what this machine is fast in; a built one in float32, unless it is asked otherwise."""
    chosen = PrecisionChoice(precision, "a test")
    monkeypatch.setattr("mrcnn_model.building.choose_precision", lambda: chosen)
    model = make_tiny_model(precision="auto")
    assert model.rpn.conv.dtype_policy.name == precision
    assert build_model(model.config).rpn.conv.dtype_policy.name == "float32"
    save_model(tmp_path, model, CARD)
    assert load_model(tmp_path)[0].rpn.conv.dtype_policy.name == precision
    assert load_model(tmp_path, precision="float32")[0].rpn.conv.dtype_policy.name == "float32"
    assert {v.dtype for v in model.variables} == {"float32"}
