"""One objective and nothing else changed: those that MaskCluster's paper compares, on the same network and views.

    python -m gssl_jax.main --config=configs/objectives.py[:preset,method=NAME] [--config.<knob>=<value> ...]

presets, those of configs/maskcluster_vit.py, each with the option method=NAME
    photos      (default) the embedded photographs, grey and contrast-normalised, 32 px
    photos_rgb  the same photographs in colour
    tiny        a few steps on a toy network: does everything run?
    cifar10     CIFAR-10 through TFDS, ViT-Ti/4
    imagenet    ImageNet-1K at 224 px, ViT-S/16; backbone=vit_b16 for ViT-B/16
    folder      path=DIR: your own images; size=PIXELS, backbone=NAME

methods (arXiv 2406.17460 compares their families: contrastive, clustering, masked, joint)
    maskcluster  masked images and clusters of class and patch tokens (arXiv 2406.17460)

Data, network, views, optimiser and evaluation are those of configs/maskcluster_vit.py; the group `method` is the
objective's own, with the values of its paper, and smaller ones where the preset is small.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

maskcluster = presets.sibling(__file__, "maskcluster_vit")


def same(c):
    """MaskCluster itself."""


METHODS = {"maskcluster": same}
"""method=NAME: what it makes of the group `method` that the preset of MaskCluster left; it sees the whole recipe, so
that it can ask for the sizes of the preset (`optim.unit` is `step` in the small ones)."""


PRESETS = {
    name: presets.by_method(preset, METHODS, default="maskcluster") for name, preset in maskcluster.PRESETS.items()
}


def base():
    """The settings of maskcluster_vit.py."""
    return ConfigDict(maskcluster.base())


def get_config(argument="photos"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
