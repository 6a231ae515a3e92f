"""The library: information on its build, the TensorFlow versions it refuses, its two instruction sets."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

import mrcnn_ops
from mrcnn_ops.library import check_tensorflow, load_library


def run(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_build_info():
    info = mrcnn_ops.build_info()
    assert set(info) == {"version", "tensorflow", "compiler", "cuda", "processor", "build_type", "instruction_set"}
    assert info["tensorflow"].split(".")[:2] == tf.__version__.split(".")[:2]
    assert info["instruction_set"] in ("avx2", "portable")
    info["version"] = "changed"
    assert mrcnn_ops.build_info()["version"] != "changed"


@pytest.mark.parametrize(
    ("op", "has_cuda_kernel"),
    [
        ("MrcnnMultilevelRoiAlign", True),
        ("MrcnnMultilevelRoiAlignGrad", True),
        ("MrcnnGenerateProposals", True),
        ("MrcnnMatchBoxes", True),
        ("MrcnnMulticlassNms", True),
        ("MrcnnEncodeMasks", False),
    ],
)
def test_gpu_kernels_are_registered_where_built(op, has_cuda_kernel):
    devices = {kernel.device_type for kernel in kernels.get_registered_kernels_for_op(op).kernel}
    with_cuda = mrcnn_ops.build_info()["cuda"] != "none"
    assert devices == ({"CPU", "GPU"} if with_cuda and has_cuda_kernel else {"CPU"})


@pytest.mark.parametrize(
    ("built_for", "running"), [("2.21.0", "2.21.0"), ("2.21.0", "2.21.3"), ("2.21.1", "2.21.0-rc1")]
)
def test_same_minor_version_is_accepted(built_for, running):
    check_tensorflow(built_for, running)


@pytest.mark.parametrize("running", ["2.20.0", "2.22.0", "3.21.0", "2.2.1", "2.210.0"])
def test_another_minor_version_is_refused(running):
    with pytest.raises(ImportError, match=f"built for TensorFlow 2.21.0, but TensorFlow {running} is running") as error:
        check_tensorflow("2.21.0", running)
    assert "\n" not in str(error.value)


def test_import_under_another_tensorflow_fails_with_one_line():
    result = run("import tensorflow as tf; tf.__version__ = '2.99.0'; import mrcnn_ops")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: mrcnn_ops was built for TensorFlow 2.21")
    assert "TensorFlow 2.99.0 is running" in last


def test_a_package_that_was_not_built_says_so(tmp_path):
    with pytest.raises(ImportError, match=r"mrcnn_ops is not built: there is no build_info\.json in"):
        load_library([str(tmp_path)])


# Every op once, on sizes that are not multiples of eight. Arrays of one instruction set go into one file.
ALL_OPS = """
import sys
import numpy as np, tensorflow as tf, mrcnn_ops
rng = np.random.default_rng(3)
def boxes(*shape):
    corners = rng.uniform(-10, 70, (*shape, 2, 2))
    return np.concatenate([corners.min(-2), corners.max(-2)], -1).astype(np.float32)
aligned = {}
for dtype in ("float32", "float16", "bfloat16"):
    features = [tf.cast(rng.standard_normal((2, 64 // s, 64 // s, 43)), dtype) for s in (4, 8)]
    with tf.GradientTape() as tape:
        tape.watch(features)
        out = mrcnn_ops.multilevel_roi_align(features, boxes(2, 30), strides=(4, 8), output_size=5)
    gradients = tape.gradient(out, features, output_gradients=tf.cast(rng.standard_normal(out.shape), dtype))
    aligned |= {f"{dtype}_{i}": tf.cast(x, tf.float32).numpy() for i, x in enumerate([out, *gradients])}
anchors = boxes(101)
proposals = mrcnn_ops.generate_proposals(
    rng.standard_normal((2, 101)).astype("float32"), rng.standard_normal((2, 101, 4)).astype("float32"), anchors,
    [[60, 60], [40, 50]], [80, 21], pre_nms_top_k=70, post_nms_top_k=60, num_proposals=90)
matches = mrcnn_ops.match_boxes(anchors, boxes(2, 11), rng.random((2, 11)) < 0.7, boxes(2, 3))
detections = mrcnn_ops.multiclass_nms(
    boxes(2, 45, 3), rng.random((2, 45, 3)).astype("float32"),
    score_threshold=0.1, nms_threshold=0.4, max_detections=50)
counts = mrcnn_ops.encode_masks(rng.random((9, 28, 28)).astype("float32"), boxes(9), [[61, 53]] * 9)
exact = {f"exact_{i}": x.numpy() for i, x in enumerate([*proposals, *matches, *detections])}
exact["exact_counts"] = counts.numpy().astype("S")
np.savez(sys.argv[1], instruction_set=mrcnn_ops.build_info()["instruction_set"], **exact, **aligned)
"""


def test_both_instruction_sets_compute_the_same(tmp_path):
    results = {}
    for name in ("portable", "best"):
        path = tmp_path / f"{name}.npz"
        process = run(ALL_OPS, str(path), MRCNN_OPS_INSTRUCTION_SET=name)
        assert process.returncode == 0, process.stderr
        results[name] = dict(np.load(path))
    assert results["portable"].pop("instruction_set") == "portable"
    if results["best"].pop("instruction_set") == "portable":
        pytest.skip("this processor has no AVX2")
    for name, best in results["best"].items():
        portable = results["portable"][name]
        if name.startswith("exact"):  # boxes, IoUs, masks: the same bits
            np.testing.assert_array_equal(best, portable, err_msg=name)
        else:  # ROIAlign uses fused multiply-add where available, so a half is sometimes rounded the other way
            np.testing.assert_allclose(best, portable, rtol=1e-2, atol=1e-5, err_msg=name)
            if not name.startswith("float32"):
                assert np.mean(best != portable) < 0.01, name
