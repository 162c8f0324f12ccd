"""MaskCluster (arXiv 2406.17460) in the stages of HPT (arXiv 2103.12718), on a vision transformer.

    python -m gssl_jax.main --config=configs/hpt_maskcluster.py[:preset[,key=value ...]] [--config.<knob>=<value> ...]
    python -m gssl_jax.arms --config=configs/hpt_maskcluster.py[:preset[,key=value ...]]

presets
    earth       (default) three data sets in a chain: photographs, then satellite images, then a relief of the same
                places; steps=NUMBER of the last, percent=NUMBER of its images: minutes on a laptop
    tiny        a few steps on a toy network: does everything run?
    folder      path=DIR: your own images; source=DIR: related ones before them; weights=FILE: a published backbone to
                start from; size=PIXELS, backbone=NAME

The method and its values are those of configs/maskcluster_vit.py. Neither paper combines the two: everything about the
chain is HPT's, everything within a stage MaskCluster's. A transformer has no batch statistics to refresh; `norm` trains
the layer norms.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

maskcluster = presets.sibling(__file__, "maskcluster_vit")


def earth(c, steps=300, percent=100):
    """From photographs to satellite images to a shaded relief: 12 regions of the Earth have to be told apart.

    The recipe for photographs in colour, but for the views of a tile: 36 pixels leave no room to cut at native
    resolution, so that views differ in scale, and a tile may be mirrored.
    """
    maskcluster.photos(c, channels=3)
    c.data.max_zoom = 1.0
    photographs = presets.as_stage(c, duration=400.0)
    c.data.streams.train.update(dict(source="earth", path="shaded", size=0, share=percent / 100))
    c.evals.data.update(dict(source="earth", path="shaded"))
    c.data.canvas = 36
    c.data.mean, c.data.std = (0.68, 0.72, 0.67), (0.12, 0.07, 0.08)
    for name, view in c.method.augment.items():
        view.update(dict(scale=(0.1, 0.3) if name == "local" else (0.3, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5))
    c.optim.duration = float(steps)
    satellite = dict(
        data=dict(
            streams=dict(train=dict(path="bluemarble", share=1.0)), mean=(0.37, 0.35, 0.24), std=(0.25, 0.22, 0.24)
        ),
        optim=dict(duration=400.0),
    )
    presets.hierarchy(c, base=photographs, source=satellite)


def tiny(c):
    """The whole path in seconds; its scores mean nothing."""
    maskcluster.tiny(c)
    short = dict(optim=dict(duration=4.0))
    presets.hierarchy(c, base=short, source=short)


def folder(c, path, source="", weights="", size=64, backbone="vit_micro8"):
    """Any folder of images, after a related one where there is one, from a published backbone where there is one."""
    if not source and not weights:
        raise ValueError(
            "nothing to start from: give source=DIR or weights=FILE, or use configs/maskcluster_vit.py:folder"
        )
    maskcluster.folder(c, path, size, backbone)
    c.backbone.weights = weights
    related = dict(data=dict(streams=dict(train=dict(path=source)))) if source else None
    presets.hierarchy(c, base=None, source=related)


PRESETS = {"earth": earth, "tiny": tiny, "folder": folder}


def base():
    """The settings of maskcluster_vit.py."""
    return ConfigDict(maskcluster.base())


def get_config(argument="earth"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
