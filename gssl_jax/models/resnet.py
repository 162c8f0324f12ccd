"""Residual networks for large and small images, with the ReLU after the sum or before it, as one module.

ResNet-18/50 (arXiv 1512.03385, sections 3 and 4.1), ResNet-32 for CIFAR (4.2, shortcuts without parameters) and
wide networks of pre-activation blocks (arXiv 1605.07146). Letters: B images, S image side, C input channels,
h = w = S / the product of all strides, D width of the last stage. Images are taken in [0, 1]: normalisation is the
first line of the forward pass, so that pretexts and attacks live in pixel space.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from gssl_jax.models.batch_norm import GroupedBatchNorm
from gssl_jax.models.layers import Dense
from gssl_jax.ops.augment import normalise

STEMS = ("cifar", "imagenet")
"""3x3 of stride 1; or 7x7 of stride 2 and a max-pool, together a quarter of the side."""

SHORTCUTS = ("projection", "pad")
"""Where a block changes the shape: a 1x1 convolution (option B of arXiv 1512.03385, section 3.3), or every second
pixel and zero channels on both sides (option A, no parameters)."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "resnet18": dict(block="basic", depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), stem="imagenet", stem_width=64),
    "resnet50": dict(
        block="bottleneck", depths=(3, 4, 6, 3), widths=(64, 128, 256, 512), stem="imagenet", stem_width=64
    ),
    # The fan of each is that of its usual code: LDAM-DRW leaves torch's kaiming_normal_ at fan_in.
    "resnet14": dict(block="basic", depths=(2, 2, 2), widths=(16, 32, 64), shortcut="pad", fan="fan_in"),
    "resnet32": dict(block="basic", depths=(5, 5, 5), widths=(16, 32, 64), shortcut="pad", fan="fan_in"),
    "wrn_40_2": dict(block="preactivation", depths=(6, 6, 6), widths=(32, 64, 128)),
    # FixMatch's wide network (github.com/google-research/fixmatch, libml/models.py), which has momentum .999 and
    # biases in its convolutions; without biases, as in its PyTorch versions, 1,467,610 parameters with ten classes.
    "wrn_28_2": dict(
        block="preactivation",
        depths=(4, 4, 4),
        widths=(32, 64, 128),
        negative_slope=0.1,
        activated_shortcuts="first",
    ),
}
"""Attributes of `ResNet` under the names of the literature; `resnet` builds from them."""


class Parts(NamedTuple):
    """What the blocks of one network are made of.

    `conv(width, kernel, stride, name)` and `norm(name)` build modules by name; `activation` and `dropout` map arrays.
    """

    conv: Callable[..., nn.Module]
    norm: Callable[..., Callable[[Array], Array]]
    activation: Callable[[Array], Array]
    dropout: Callable[[Array], Array]
    shortcut: str


def convolution(width: int, kernel: int, stride: int, name: str, fan: str, dtype: DTypeLike) -> nn.Module:
    """A square convolution without bias, Kaiming-normal weights (arXiv 1502.01852).

    The same padding on both sides as in torch: `SAME` pads only the far side at stride 2 and would shift the image
    under published weights. One of 1x1 is a product of matrices, kernel [in, out], whose step is 2 to 4 times faster
    on a CPU than XLA's convolution. Flax's own `he_normal` is a truncated normal.
    """
    weights = nn.initializers.variance_scaling(2.0, fan, "normal")
    if kernel == stride == 1:
        return Dense(width, use_bias=False, kernel_init=weights, dtype=dtype, name=name)
    sides = (kernel, kernel)
    return nn.Conv(width, sides, stride, kernel // 2, use_bias=False, kernel_init=weights, dtype=dtype, name=name)


def padded_shortcut(x: Array, width: int, stride: int) -> Array:
    """Option A: every `stride`-th pixel of [B, h, w, D], zero channels before and after up to `width`."""
    extra = width - x.shape[-1]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))


def shortcut(parts: Parts, x: Array, width: int, stride: int, normed: bool) -> Array:
    """x [B, h, w, D] in the shape of a block's branch; called inside a compact method, whose module owns the parts."""
    if stride == 1 and x.shape[-1] == width:
        return x
    if parts.shortcut == "pad":
        return padded_shortcut(x, width, stride)
    x = parts.conv(width, 1, 1, name="shortcut")(x[:, ::stride, ::stride])
    return parts.norm(name="norm_shortcut")(x) if normed else x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the ReLU follows the sum. [B, h, w, D] -> [B, h / stride, w / stride, width]."""

    parts: Parts
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm, activation = self.parts.conv, self.parts.norm, self.parts.activation
        y = activation(norm(name="norm1")(conv(self.width, 3, self.stride, name="conv1")(x)))
        y = norm(name="norm2")(conv(self.width, 3, 1, name="conv2")(y))
        return activation(y + shortcut(self.parts, x, self.width, self.stride, normed=True))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the width; the stride sits in the 3x3 as in torchvision (first 1x1 in the paper)."""

    parts: Parts
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm, activation = self.parts.conv, self.parts.norm, self.parts.activation
        y = activation(norm(name="norm1")(conv(self.width, 1, 1, name="conv1")(x)))
        y = activation(norm(name="norm2")(conv(self.width, 3, self.stride, name="conv2")(y)))
        y = norm(name="norm3")(conv(4 * self.width, 1, 1, name="conv3")(y))
        return activation(y + shortcut(self.parts, x, 4 * self.width, self.stride, normed=True))


class PreActivationBlock(nn.Module):
    """Norm and activation before each 3x3 convolution, nothing after the sum (arXiv 1603.05027, figure 4e).

    A projection reads the activated input where `activated`, the raw one elsewhere; an identity is always raw.
    """

    parts: Parts
    width: int
    stride: int
    activated: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv, norm, activation = self.parts.conv, self.parts.norm, self.parts.activation
        y = activation(norm(name="norm1")(x))
        keeps_shape = self.stride == 1 and x.shape[-1] == self.width
        source = y if self.activated and not keeps_shape else x
        y = activation(norm(name="norm2")(conv(self.width, 3, self.stride, name="conv1")(y)))
        y = conv(self.width, 3, 1, name="conv2")(self.parts.dropout(y))
        return y + shortcut(self.parts, source, self.width, self.stride, normed=False)


class ResNet(nn.Module):
    """Residual network of any block, depth, width and image size; `ARCHITECTURES` holds the published ones.

    Batch norm keeps its running statistics in the collection `batch_stats`. Under jit on a mesh its batch statistics
    are those of the global batch, or of `batch_norm_groups` equal runs of it (`GroupedBatchNorm`). The running variance
    averages the biased one, torch's the unbiased: a factor of n / (n - 1) for n positions in the batch.

    Attributes:
      image_size: side in pixels that the network is made for; it runs on others.
      block: `basic`, `bottleneck` or `preactivation`.
      depths, widths: blocks, and channels of their 3x3 convolutions, of each stage. A stage but the first halves the
        side in its first block.
      stem, shortcut: one of `STEMS`, one of `SHORTCUTS`.
      stem_width: channels of the stem.
      activated_shortcuts: which projections of pre-activation blocks read the activated input: `all` (the wide
        networks of arXiv 1605.07146) or `first`, those of the first stage (FixMatch).
      negative_slope: of the leaky ReLU, 0 for a ReLU.
      dropout: rate between the two convolutions of a pre-activation block (arXiv 1605.07146, section 2.4).
      fan: `fan_in` or `fan_out`, what the variance of the initial weights is divided by.
      batch_norm_momentum: share of the old running statistics that each training step keeps (torch's is 1 - this).
      batch_norm_groups: groups of the batch with statistics of their own in training; 1 = the whole batch.
      mean, std: per channel, in units of [0, 1]; one value serves all channels.
    """

    image_size: int
    block: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem: str = "cifar"
    stem_width: int = 16
    shortcut: str = "projection"
    activated_shortcuts: str = "all"
    negative_slope: float = 0.0
    dropout: float = 0.0
    fan: str = "fan_out"
    batch_norm_momentum: float = 0.9
    batch_norm_groups: int = 1
    channels: int = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Array,
        *,
        train: bool = False,
        use_running_average: bool | None = None,
        members: Array | None = None,
        capture: tuple[str, ...] = (),
    ) -> dict[str, Array]:
        """Features of `images`, float [B, S, S, C] in [0, 1].

        Args:
          train: dropout on, which needs the random stream `dropout`, and batch statistics, with which the collection
            `batch_stats` must be mutable.
          use_running_average: True or False to choose the statistics apart from `train`, as an attack does that runs
            on frozen statistics, or on the batch's and throws the updates away. None: running averages unless `train`.
          members: int32 [B], the group of every image where `batch_norm_groups` is above 1; None = runs of neighbours.
          capture: further outputs: `stem`, `stage_<i>` (from 1) and `block_<i>` (from 0, through all stages), each
            [B, h, w, D] at its own size, pre-activation ones before the norm that follows.

        Returns: `map` [B, h, w, D], the last stage (after the last norm and activation with pre-activation blocks),
          its mean over places `feat` [B, D], again as `patch_mean`, all float32, and what was captured.

        Raises ValueError for an unknown block, stem, shortcut or output.
        """
        average = (not train) if use_running_average is None else use_running_average
        parts = self._parts(train, average, members)
        x = self._stem(parts, normalise(images, self.mean, self.std).astype(self.dtype))
        found = {"stem": x}
        for i, (stage, stride, width) in enumerate(self._plan()):
            x = self._block(parts, width, stride, stage, name=f"block_{i}")(x)
            found |= {f"block_{i}": x, f"stage_{stage + 1}": x}  # the last block of a stage is the stage
        if self.block == "preactivation":
            x = parts.activation(parts.norm(name="norm")(x))
        unknown = sorted(set(capture) - set(found))
        if unknown:
            raise ValueError(f"this ResNet has {sum(self.depths)} blocks and no output named {unknown}")
        x = x.astype(jnp.float32)
        feat = jnp.mean(x, axis=(1, 2))
        return {"feat": feat, "patch_mean": feat, "map": x} | {name: found[name] for name in capture}

    def _plan(self) -> list[tuple[int, int, int]]:
        """(stage from 0, stride, width) of every block."""
        stages = enumerate(zip(self.depths, self.widths, strict=True))
        return [(s, 2 if s > 0 and j == 0 else 1, width) for s, (depth, width) in stages for j in range(depth)]

    def _parts(self, train: bool, average: bool, members: Array | None) -> Parts:
        if self.shortcut not in SHORTCUTS:
            raise ValueError(f"shortcut must be one of {SHORTCUTS}, got {self.shortcut!r}")
        # Statistics and the normalisation itself are float32 whatever the dtype.
        options: dict[str, Any] = dict(use_running_average=average, momentum=self.batch_norm_momentum, epsilon=1e-5)
        norm: Callable[..., Callable[[Array], Array]]
        if self.batch_norm_groups == 1:
            norm = functools.partial(nn.BatchNorm, use_fast_variance=False, dtype=self.dtype, **options)
        else:

            def norm(name: str) -> Callable[[Array], Array]:
                module: nn.Module = GroupedBatchNorm(self.batch_norm_groups, dtype=self.dtype, name=name, **options)
                return functools.partial(module, members=members)

        leaky = functools.partial(nn.leaky_relu, negative_slope=self.negative_slope)
        return Parts(
            conv=functools.partial(convolution, fan=self.fan, dtype=self.dtype),
            norm=norm,
            activation=leaky if self.negative_slope else nn.relu,
            dropout=nn.Dropout(self.dropout, deterministic=not train),
            shortcut=self.shortcut,
        )

    def _stem(self, parts: Parts, x: Array) -> Array:
        if self.stem not in STEMS:
            raise ValueError(f"stem must be one of {STEMS}, got {self.stem!r}")
        kernel, stride = (3, 1) if self.stem == "cifar" else (7, 2)
        x = parts.conv(self.stem_width, kernel, stride, name="stem")(x)
        if self.block != "preactivation":
            x = parts.activation(parts.norm(name="norm_stem")(x))
        if self.stem == "cifar":
            return x
        # Padded apart, which XLA takes together again: the converter to ONNX loses the padding of a pooling.
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
        return nn.max_pool(padded, window_shape=(3, 3), strides=(2, 2), padding="VALID")

    def _block(self, parts: Parts, width: int, stride: int, stage: int, name: str) -> nn.Module:
        if self.block == "basic":
            return BasicBlock(parts, width, stride, name=name)
        if self.block == "bottleneck":
            return Bottleneck(parts, width, stride, name=name)
        if self.block != "preactivation":
            raise ValueError(f"block must be 'basic', 'bottleneck' or 'preactivation', got {self.block!r}")
        if self.activated_shortcuts not in ("all", "first"):
            raise ValueError(f"activated_shortcuts must be 'all' or 'first', got {self.activated_shortcuts!r}")
        activated = self.activated_shortcuts == "all" or stage == 0
        return PreActivationBlock(parts, width, stride, activated, name=name)


def resnet(name: str, *, image_size: int, **changes: Any) -> ResNet:
    """The network `name` of `ARCHITECTURES` with other attributes of `ResNet` changed, say `stem="cifar"`.

    Raises ValueError for an unknown name.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown network {name!r}; there are {sorted(ARCHITECTURES)}")
    return ResNet(image_size=image_size, **(ARCHITECTURES[name] | changes))
