import pytest

from mrcnn_eval import class_difference

CLASSES = ((3, 8), ("cat", "dog"))


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (CLASSES, None),
        (([3, 8], ["cat", "dog"]), None),
        (((3,), ("cat",)), "1 classes, the model has 2"),
        (((3, 9), ("cat", "dog")), "category 9 'dog' where the model has 8 'dog'"),
        (((3, 8), ("dog", "cat")), "category 3 'dog' where the model has 3 'cat'"),
    ],
)
def test_first_difference_is_told(ours, expected):
    assert class_difference(ours, CLASSES, reference="the model") == expected
