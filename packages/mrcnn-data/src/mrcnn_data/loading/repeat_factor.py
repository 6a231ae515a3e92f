"""Repeat-factor sampling: draw images of rare classes more often (Gupta et al. 2019, LVIS, appendix B.2)."""

from __future__ import annotations

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset


def repeat_factors(dataset: CocoDataset, images: np.ndarray, *, threshold: float) -> np.ndarray:
    """Return how often each image is drawn in an epoch, on average.

    The factor of a class is max(1, sqrt(threshold / f)), where f is the share of the images that show the class. An
    image gets the largest factor of its classes.

    Args:
        images: int64 [I], the images that training draws from; f is a share of these.
        threshold: a class that fewer than this share of the images show is rare; with 0 every factor is 1.
    Returns:
        float64 [I], at least 1; 1 for images without objects.
    """
    image_of_object, class_of_object = dataset.classes_of_objects()
    shown = np.unique(np.stack([image_of_object, class_of_object], axis=1), axis=0)  # [pairs, 2]
    shown = shown[np.isin(shown[:, 0], images)]
    num_images_of_class = np.bincount(shown[:, 1], minlength=dataset.num_classes)
    share = num_images_of_class / max(len(images), 1)
    of_class = np.sqrt(np.maximum(threshold / np.where(share > 0, share, 1.0), 1.0))
    factors = np.ones(len(dataset))
    np.maximum.at(factors, shown[:, 0], of_class[shown[:, 1]])
    return factors[images]
