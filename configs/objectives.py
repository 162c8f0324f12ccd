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
    simclr       contrast of all views of a batch (arXiv 2002.05709)
    moco_v3      contrast with the keys of a slower network (arXiv 2104.02057)
    mae          three quarters of the patches left out, rebuilt by a decoder (arXiv 2111.06377)
    simmim       patches hidden by a token, rebuilt by a linear layer (arXiv 2111.09886)
    supervised   the labels of the same images: what they can teach at most
    dino         clusters of clean views by student and teacher (arXiv 2104.14294)
    ibot         dino, and clusters of hidden patch tokens (arXiv 2111.07832)
    msn          clusters of views with patches left out (arXiv 2204.07141)
    swav         swapped prediction of clusters, no teacher (arXiv 2006.09882)

Data, network, views and evaluation are those of configs/maskcluster_vit.py; the group `method` is the objective's own,
with the values of its paper, smaller ones where the preset is small, and learning rate and decay with it. Every method
sees two global views of an image, augmented alike (local ones where it has a use for them): the papers of MAE and
SimMIM cut and flip alone, for which set the probabilities of jitter, grey, blur and solarise in method.augment to 0.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

maskcluster = presets.sibling(__file__, "maskcluster_vit")


def same(c):
    """MaskCluster itself."""


def objective(c, name, **groups):
    """The group `method` of another objective on the global views of the preset; False where the preset is small."""
    views = {"globals": c.method.views["globals"], "locals": 0}
    c.method = ConfigDict(
        dict(name=name, hand_over=c.method.hand_over, views=views, augment=c.method.augment, **groups)
    )
    c.optim.freeze_prototypes = 0.0  # there are none
    return c.optim.unit == "epoch"


def simclr(c):
    """NT-Xent over the batch. The paper's LARS is not here: rate and decay stay those of the preset."""
    large = objective(
        c,
        "simclr",
        temperature=0.1,  # of the cosines [SimCLR, table 5]
        projector=dict(layers=2, hidden=2048, output=128),  # [SimCLR]
    )
    if not large:
        c.method.temperature = 0.2
        c.method.projector.update(dict(hidden=256, output=64))


def moco_v3(c):
    """Symmetric InfoNCE with in-batch keys of a slower network."""
    large = objective(
        c,
        "moco_v3",
        temperature=0.2,  # of the cosines [MoCo-v3]
        projector=dict(layers=3, hidden=4096, output=256),
        predictor=dict(layers=2, hidden=4096),  # ends in the projector's space
        momentum=dict(start=0.99, end=1.0, curve="cosine"),  # of the teacher, over the run
    )
    c.optim.trains = "all_but_patch_embed"  # random and fixed, for stability; "all" lets it learn too
    if large:
        c.optim.update(dict(learning_rate=1.5e-4, warmup=40.0, weight_decay=0.1, final_weight_decay=0.1, clip_norm=0.0))
    else:
        c.method.projector.update(dict(layers=2, hidden=256, output=64))
        c.method.predictor.hidden = 256
        c.method.momentum.update(dict(start=0.97, end=0.99))  # as that of MaskCluster's small presets


def masked(c, kind, ratio, align, max_side):
    """The group `method.corruption`: sizes in pixels, the rest as shares of the image."""
    return dict(
        kind=kind,  # drop (mae) | token | noise | zeros | foreign (simmim; the last three are GMML's)
        ratio=ratio,
        spread=0.0,  # token only: that share is drawn for each image from ratio -+ spread
        images=1.0,  # token only: share of the images of which anything is hidden
        align=align,  # masks in cells of this many pixels, a multiple of the patch for drop and token
        max_side=max_side,  # largest box side as a share of the image side; not for drop
        foreign_probability=0.0,  # images whose corruption is replaced by another image's content
        foreign_ratio=0.3,
    )


def mae(c):
    """Dropped patches and a decoder."""
    large = objective(
        c,
        "mae",
        corruption=masked(c, "drop", 0.75, c.backbone.patch, 0.3),
        decoder=dict(width=512, depth=8, heads=16),  # [MAE]
        loss=dict(normalised_patches=True),  # targets of each patch by its own mean and deviation [MAE]
    )
    if large:
        c.optim.update(dict(learning_rate=1.5e-4, warmup=40.0, weight_decay=0.05, final_weight_decay=0.05))
        c.optim.update(dict(beta2=0.95, clip_norm=0.0))
    else:
        c.method.decoder.update(dict(width=64, depth=1, heads=4))


def simmim(c):
    """A mask token and one linear layer."""
    cell = c.data.image_size // 7 // c.backbone.patch * c.backbone.patch  # 32 of 224 pixels [SimMIM]
    cell = max(c.backbone.patch, cell)
    large = objective(
        c,
        "simmim",
        corruption=masked(c, "token", 0.6, cell, 0.1),  # boxes of one cell: each is hidden by itself
        reconstruction=dict(layers=0),  # hidden layers before the linear one [SimMIM: none; GMML: 2]
    )
    if large:
        c.optim.update(dict(learning_rate=1e-4, weight_decay=0.05, final_weight_decay=0.05, clip_norm=5.0))


def supervised(c):
    """Labels. A backbone that has seen them all is no rival in a comparison of few labels: it is the upper reference.

    Images for validation choose the state; squares of the photographs show another scale than what is judged, so that
    there the last state is taken.
    """
    large = objective(c, "supervised", label_smoothing=0.1)  # [DeiT]
    c.data.streams.train.subset = ConfigDict(
        dict(
            kind="all",  # all | long_tail | labels | share | shots
            profile="exponential",  # long_tail, as the next two
            factor=0.01,
            shuffle_classes=False,
            count=0,  # labels: images in all; shots: of each class; long_tail: of the first class, 0 = all
            share=1.0,  # share: of every class
            seed=0,
        )
    )
    photographs = c.data.streams.train.source == "photos"
    share = 0.0 if photographs else 0.1
    c.data.validation = ConfigDict(dict(per_class=25, share=share, seed=0))  # per_class: beside a long tail
    c.evals.attacks = ConfigDict()  # name -> epsilon, step_size, steps; of the class loss alone, with a random start
    if large:
        c.evals.every = 10.0
        c.optim.update(dict(learning_rate=2.5e-4, weight_decay=0.05, final_weight_decay=0.05, clip_norm=0.0))  # [DeiT]


def clustering(c, name):
    """The group of a clustering method at class level, DINO's values; `c.method` is that of MaskCluster before.

    Views, augmentation, the form of the projector and what a small preset measured for teachers stay.
    """
    left, small = c.method, c.optim.unit == "step"
    c.method = m = ConfigDict()
    m.name = name
    m.hand_over = ("backbone",)  # of the stage before; also projector, prototypes, heads, teacher
    m.views = left.views
    m.augment = left.augment
    m.projector = ConfigDict(dict(layers=3, hidden=2048, output=256, norm="none"))  # [DINO]
    m.prototypes = ConfigDict(dict(cls=65536))  # [DINO]
    m.collapse = ConfigDict(dict(cls="centring"))  # sinkhorn | memax | centring | none
    m.temperature = ConfigDict(
        dict(student=0.1, teacher_start=0.04, teacher_end=0.07, teacher_warmup=30.0)  # in optim.unit [DINO]
    )
    m.sinkhorn = ConfigDict(dict(eps=0.05, iterations=3))  # [SwAV]
    m.memax = ConfigDict(dict(weight=1.0, sharpen=0.25))  # [MSN]
    m.centring = ConfigDict(dict(momentum=0.9))  # [DINO]
    m.momentum = ConfigDict(dict(start=0.996, end=1.0, curve="cosine"))  # of the teacher [DINO]
    m.health_rows = 4096  # targets looked at for entropies and prototype use
    if small:
        for group in ("projector", "temperature", "sinkhorn", "memax", "momentum"):
            m[group].update({key: left[group][key] for key in m[group]})
        m.prototypes.cls = left.prototypes.cls
    return m, left, small


def dino(c):
    """DINO: clean views, class level only."""
    clustering(c, "dino")


def ibot(c):
    """iBOT: DINO with a patch level of hidden tokens."""
    m, left, small = clustering(c, "ibot")
    m.projector.shared = True  # [iBOT]
    m.prototypes = ConfigDict(dict(cls=8192, patch=8192))  # [iBOT]
    m.collapse.patch = "centring"
    m.sinkhorn.positionwise = False  # patch level: each place by itself [CAPI]
    m.loss = ConfigDict({"cls": 1.0, "patch": 1.0})  # [iBOT]
    m.corruption = left.corruption
    m.corruption.update(dict(kind="token", align=c.backbone.patch, ratio=0.3, spread=0.2, images=0.5))  # [iBOT]
    if small:
        m.prototypes.update(left.prototypes)


def msn(c):
    """MSN: the first global view is the teacher's, the second an anchor with patches left out; local ones are focal."""
    m, left, small = clustering(c, "msn")
    m.prototypes.cls = left.prototypes.cls if small else 1024  # [MSN]
    m.collapse.cls = "memax"
    m.corruption = left.corruption
    m.corruption.update(dict(kind="drop", align=c.backbone.patch, ratio=0.15))  # [MSN: .15 for ViT-S/16]
    if not small:
        m.projector.norm = "batch"  # [MSN]
        m.momentum.curve = "linear"  # [MSN]
    m.views.globals = 2


def swav(c):
    """SwAV: codes by sinkhorn from the student's own scores."""
    m, left, small = clustering(c, "swav")
    del m.momentum
    m.collapse.cls = "sinkhorn"
    c.evals.which = "student"  # there is no teacher
    if not small:
        m.projector.update(dict(layers=2, hidden=2048, output=128, norm="batch"))  # [SwAV]
        m.prototypes.cls = 3000  # [SwAV]


METHODS = {
    "maskcluster": same,
    "simclr": simclr,
    "moco_v3": moco_v3,
    "mae": mae,
    "simmim": simmim,
    "supervised": supervised,
    "dino": dino,
    "ibot": ibot,
    "msn": msn,
    "swav": swav,
}
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
