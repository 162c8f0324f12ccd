"""PGD on models whose worst image is known, its box, and that nothing else is changed or differentiated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gssl_jax.ops.attacks import pgd

EPSILON = 8 / 255
RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 4, 4, 2)).astype(np.float32)
IMAGES[0, :2] = np.asarray([0.0, 1.0], np.float32)  # pixels at both ends of the range
WEIGHTS = RNG.normal(size=(4, 4, 2)).astype(np.float32)
HIDDEN = RNG.normal(size=(32, 6)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 3)


def linear(images):
    return jnp.einsum("bhwc,hwc->", images, WEIGHTS)


def curved(images, hidden=HIDDEN):
    return jnp.sum(jnp.sin(3.0 * images.reshape(len(images), -1) @ hidden) ** 2)


@pytest.mark.parametrize("keys", [None, KEYS])
def test_a_linear_loss_has_its_worst_image_in_the_corner_of_the_box(keys):
    """x + epsilon sign(w), cut at 0 and 1; 20 steps of epsilon / 5 cross the box from anywhere."""
    found = pgd(linear, jnp.asarray(IMAGES), epsilon=EPSILON, step_size=EPSILON / 5, steps=20, keys=keys)
    np.testing.assert_allclose(found, np.clip(IMAGES + EPSILON * np.sign(WEIGHTS), 0, 1), atol=1e-6)


def test_inside_the_range_a_linear_loss_grows_by_epsilon_times_the_l1_norm():
    images = jnp.full((3, 4, 4, 2), 0.5)
    worst = pgd(linear, images, epsilon=EPSILON, step_size=EPSILON / 4, steps=4)
    assert float(linear(worst) - linear(images)) == pytest.approx(3 * EPSILON * np.abs(WEIGHTS).sum(), rel=1e-4)


def test_steps_that_do_not_reach_the_box_add_up():
    images = jnp.full((3, 4, 4, 2), 0.5)
    found = pgd(linear, images, epsilon=0.1, step_size=0.01, steps=3)
    np.testing.assert_allclose(found - images, np.broadcast_to(0.03 * np.sign(WEIGHTS), found.shape), atol=1e-6)


@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize("step_size", [EPSILON / 4, 3 * EPSILON])
def test_every_pixel_stays_in_the_box_around_the_clean_one_which_is_not_touched(keys, step_size):
    """The original moves the centre of the box by its random start: up to 2 epsilon away from the clean image."""
    before = IMAGES.copy()
    images = jnp.asarray(IMAGES)
    found = np.asarray(pgd(curved, images, epsilon=EPSILON, step_size=step_size, steps=10, keys=keys))
    assert np.abs(found - before).max() <= EPSILON + 1e-7
    assert np.abs(found - before).max() > 0.9 * EPSILON
    assert found.min() >= 0.0 and found.max() <= 1.0
    np.testing.assert_array_equal(IMAGES, before)
    np.testing.assert_array_equal(images, before)


def test_one_step_from_the_clean_image_is_the_fast_gradient_sign_method():
    slope = 2 * np.cos(3.0 * IMAGES.reshape(3, -1) @ HIDDEN) * np.sin(3.0 * IMAGES.reshape(3, -1) @ HIDDEN)
    uphill = np.sign(3.0 * slope @ HIDDEN.T).reshape(IMAGES.shape)
    found = pgd(curved, jnp.asarray(IMAGES), epsilon=EPSILON, step_size=EPSILON, steps=1)
    np.testing.assert_allclose(found, np.clip(IMAGES + EPSILON * uphill, 0, 1), atol=1e-6)


def test_more_steps_find_a_higher_loss():
    images = jnp.asarray(IMAGES)
    one = pgd(curved, images, epsilon=EPSILON, step_size=EPSILON, steps=1)
    many = pgd(curved, images, epsilon=EPSILON, step_size=EPSILON / 4, steps=20)
    assert float(curved(many)) > float(curved(one)) + 0.1 > float(curved(images)) + 0.2


def test_the_random_start_fills_the_box_and_follows_the_sample():
    images = jnp.full((3, 16, 16, 2), 0.5)
    start = pgd(lambda x: jnp.sum(x), images, epsilon=0.2, step_size=0.1, steps=0, keys=KEYS)
    noise = np.asarray(start - images)
    assert np.abs(noise).max() < 0.2 and np.ptp(noise) > 0.39
    assert noise.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.05)
    swapped = pgd(lambda x: jnp.sum(x), images, epsilon=0.2, step_size=0.1, steps=0, keys=KEYS[::-1])
    np.testing.assert_array_equal(start, swapped[::-1])
    near_the_end = pgd(lambda x: 0 * jnp.sum(x), 0 * images, epsilon=0.2, step_size=0.1, steps=1, keys=KEYS)
    assert float(near_the_end.min()) == 0.0 < float(near_the_end.max()) <= 0.2


@jax.custom_jvp
def underivable(x):
    return x


@underivable.defjvp
def _refuse(primals, tangents):
    raise AssertionError("a second derivative was asked for")


@jax.custom_vjp
def square_once(x):
    """x^2 with a first and no second derivative, as fused attention kernels have."""
    return x**2


square_once.defvjp(lambda x: (x**2, x), lambda x, g: (2.0 * underivable(x) * g,))


def test_an_attack_inside_a_loss_is_a_constant():
    """A loop of traced length cannot be differentiated in reverse: this fails if any derivative enters the attack."""

    def model(images, hidden):
        return jnp.sum(square_once(jnp.sin(3.0 * images.reshape(len(images), -1) @ hidden)))

    def trained(hidden, images, steps):
        attack = dict(epsilon=EPSILON, step_size=EPSILON / 4, steps=steps)
        return model(pgd(lambda x: model(x, hidden), images, **attack), hidden)

    slope, toward_images = jax.jit(jax.grad(trained, argnums=(0, 1)))(jnp.asarray(HIDDEN), jnp.asarray(IMAGES), 5)
    fixed = pgd(curved, jnp.asarray(IMAGES), epsilon=EPSILON, step_size=EPSILON / 4, steps=5)
    expected = jax.grad(lambda hidden: curved(fixed, hidden))(jnp.asarray(HIDDEN))
    np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(toward_images, 0.0)


def test_steps_are_compiled_once():
    traced = []

    def counting(images):
        traced.append(None)
        return curved(images)

    attack = jax.jit(lambda x, n: pgd(counting, x, epsilon=EPSILON, step_size=EPSILON / 4, steps=n))
    first = attack(IMAGES, 1)
    after_one = len(traced)
    hundredth = attack(IMAGES, 100)
    assert len(traced) == after_one <= 3
    assert np.any(np.asarray(first) != np.asarray(hundredth))


def test_images_that_are_not_in_the_unit_range_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        pgd(linear, jnp.zeros((3, 4, 4, 2), jnp.uint8), epsilon=EPSILON, step_size=EPSILON, steps=1)


def lengths(change):
    return np.sqrt(np.square(np.asarray(change)).sum((1, 2, 3)))


@pytest.mark.parametrize("keys", [None, KEYS])
def test_a_linear_loss_has_its_worst_image_straight_along_the_weights(keys):
    """Within |change| <= epsilon, w . change is largest at epsilon w / |w|, here far from 0 and 1."""
    images = jnp.full((3, 4, 4, 2), 0.5)
    found = pgd(linear, images, epsilon=0.3, step_size=0.1, steps=60, keys=keys, norm="l2")
    direction = WEIGHTS / np.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(found - images, np.broadcast_to(0.3 * direction, found.shape), atol=2e-3)
    gained = 3 * 0.3 * np.linalg.norm(WEIGHTS)
    assert float(linear(found) - linear(images)) == pytest.approx(gained, rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e-25])
def test_a_step_has_its_length_for_every_sample_however_steep(scale):
    """The samples' gradients differ a hundredfold; one without a gradient stays where it is."""
    factor = jnp.asarray([1.0, 100.0, 0.0]).reshape(3, 1, 1, 1) * scale
    images = jnp.full((3, 4, 4, 2), 0.5)
    found = pgd(lambda x: jnp.sum(factor * x * WEIGHTS[None]), images, epsilon=1.0, step_size=0.01, steps=3, norm="l2")
    np.testing.assert_allclose(lengths(found - images), [0.03, 0.03, 0.0], rtol=1e-4)


@pytest.mark.parametrize("keys", [None, KEYS])
def test_every_image_stays_in_the_ball_and_in_the_range(keys):
    found = pgd(curved, jnp.asarray(IMAGES), epsilon=0.1, step_size=0.02, steps=10, keys=keys, norm="l2")
    assert lengths(found - IMAGES).max() <= 0.1 + 1e-6 and lengths(found - IMAGES).max() > 0.09
    assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0
    assert float(curved(found)) > float(curved(jnp.asarray(IMAGES))) + 1.0


def test_the_random_start_fills_the_ball_evenly():
    """In d dimensions a uniform point has |change| / epsilon = u^(1/d), of mean d / (d + 1); two pixels of two
    channels are four dimensions."""
    images, keys = jnp.full((4000, 2, 1, 2), 0.5), jax.random.split(jax.random.key(1), 4000)
    start = pgd(lambda x: jnp.sum(x), images, epsilon=0.2, step_size=0.1, steps=0, keys=keys, norm="l2")
    assert lengths(start - images).mean() / 0.2 == pytest.approx(4 / 5, abs=0.01)
    assert lengths(start - images).max() <= 0.2 + 1e-6
    np.testing.assert_allclose(np.asarray(start - images).mean(0), 0.0, atol=0.006)


def test_a_norm_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="linf, l2"):
        pgd(linear, jnp.asarray(IMAGES), epsilon=0.1, step_size=0.1, steps=1, norm="l1")
