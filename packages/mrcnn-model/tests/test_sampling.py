import numpy as np
import tensorflow as tf

from mrcnn_model.targets.sampling import per_image_uniform, sample_candidates


def masks(*rows):
    """Rows of "f" (foreground), "b" (background) and "." as two boolean arrays."""
    letters = np.array([list(row) for row in rows])
    return tf.constant(letters == "f"), tf.constant(letters == "b")


def draw(foreground, background, *, seeds=((1, 2),), num_samples=4, max_foreground=2, salt=1):
    return sample_candidates(
        foreground,
        background,
        tf.constant(seeds, tf.int32),
        num_samples=num_samples,
        max_foreground=max_foreground,
        salt=salt,
    )


def test_caps_the_foreground_and_fills_with_background():
    samples = draw(*masks("fffbbb.."))
    assert samples.sampled.numpy().sum() == 4
    np.testing.assert_array_equal(samples.foreground[0], [True, True, False, False])
    assert set(samples.indices[0].numpy()[:2]) <= {0, 1, 2}
    assert set(samples.indices[0].numpy()[2:]) <= {3, 4, 5}


def test_background_takes_what_foreground_leaves():
    samples = draw(*masks("f.bbbbbb"))
    np.testing.assert_array_equal(samples.foreground[0], [True, False, False, False])
    assert samples.sampled.numpy().all()


def test_fewer_candidates_than_samples():
    samples = draw(*masks("f.b....."))
    np.testing.assert_array_equal(samples.sampled[0], [True, True, False, False])
    np.testing.assert_array_equal(samples.indices[0], [0, 2, 0, 0])


def test_no_candidate_at_all():
    samples = draw(*masks("........"))
    assert not samples.sampled.numpy().any()
    assert not samples.foreground.numpy().any()


def test_only_foreground_still_respects_the_cap():
    samples = draw(*masks("ffffffff"))
    assert samples.sampled.numpy().sum() == 2


def test_a_row_depends_on_its_own_seed_only():
    foreground, background = masks("ffffbbbb", "ffffbbbb", "ffffbbbb")
    together = draw(foreground, background, seeds=((1, 2), (3, 4), (1, 2)))
    alone = draw(foreground[1:2], background[1:2], seeds=((3, 4),))
    np.testing.assert_array_equal(together.indices[1], alone.indices[0])
    np.testing.assert_array_equal(together.indices[0], together.indices[2])


def test_salt_and_both_seed_words_matter():
    base = per_image_uniform(tf.constant([[1, 2]]), 64, salt=1).numpy()
    for seeds, salt in (([[1, 2]], 2), ([[2, 2]], 1), ([[1, 3]], 1)):
        assert (per_image_uniform(tf.constant(seeds), 64, salt=salt).numpy() != base).mean() > 0.9


def test_uniform_over_the_unit_interval():
    values = per_image_uniform(tf.constant([[-5, 7], [2**31 - 1, -(2**31)]]), 20_000, salt=3).numpy()
    assert values.min() >= 0
    assert values.max() < 1
    for row in values:
        histogram, _ = np.histogram(row, bins=20, range=(0, 1))
        # Chi-square with 19 degrees of freedom: 50 has probability 1e-4.
        assert ((histogram - 1000) ** 2 / 1000).sum() < 50
    assert abs(np.corrcoef(values)[0, 1]) < 0.03


def test_every_candidate_is_drawn_equally_often():
    foreground, background = masks(*["ffffffffff"] * 500)
    seeds = [(i, -i) for i in range(500)]
    samples = draw(foreground, background, seeds=seeds, num_samples=5, max_foreground=5)
    counts = np.bincount(samples.indices.numpy().ravel(), minlength=10)
    assert counts.sum() == 2500
    assert (abs(counts - 250) < 60).all()  # standard deviation 11
