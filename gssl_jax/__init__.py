"""gssl_jax: label-efficient self-supervised pretraining for images, in JAX."""

__version__ = "0.1.0"
