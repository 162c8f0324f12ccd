"""Few labels, many images without: FixMatch with gated pretext tasks beside it (arXiv 2001.07685, 2301.05865).

    python -m gssl_jax.main --config=configs/gated_semi.py[:preset[,key=value ...]] [--config.<knob>=<value> ...]

presets
    cifar10     (default) CIFAR-10 through TFDS, 4,000 labels, WRN-28-2, 2^20 steps; labels=40 for other numbers
    fixmatch    the same without pretexts: what do they add?
    plain       no consistency: labels on clean images, pretexts on unlabelled ones; labels=N
    photos      the embedded photographs in colour, 76 labels (4 of each): some minutes on a laptop
    tiny        a few steps on a toy network: does everything run?
    folder      path=DIR: your own images in class folders; labels=N in all, size=PIXELS
Every preset takes backbone=NAME: a ResNet, or a ViT such as vit_ti4 with the optimiser that it needs.

The authors' README reproduces FixMatch at 95.62 (CIFAR-10, 4,000 labels; the paper: 95.74); it has no number with the
gate. Here a model is chosen on validation images, of which the unlabelled stream sees none.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

PRETEXTS = ("lorot_e", "flip", "channels")


def base():
    """The authors' settings for CIFAR-10 with 4,000 labels."""
    c = ConfigDict()
    c.stages = ("target",)
    c.stage = ConfigDict({"target": ConfigDict()})
    c.arms = ConfigDict()  # name -> stages, for python -m gssl_jax.arms
    c.seed = 0

    c.data = ConfigDict()
    images = dict(source="tfds", path="cifar10", split="train", size=0, share=1.0)
    c.data.streams = ConfigDict(
        dict(
            labelled=dict(**images, ratio=1),  # images of a stream for each one of optim.batch_size
            unlabelled=dict(**images, ratio=7),  # the labelled ones too, those for validation not
        )
    )
    c.data.streams.labelled.subset = ConfigDict(
        dict(
            kind="labels",  # all | long_tail | labels | share | shots
            count=4000,  # labels: images in all; shots: of each class; long_tail: of the first class, 0 = all
            share=0.01,  # share: of every class
            profile="exponential",  # long_tail
            factor=0.01,
            shuffle_classes=False,  # long_tail: the seed draws which class is rich
            seed=0,
        )
    )
    c.data.validation = ConfigDict(
        dict(
            per_class=25,  # beside a long tail, of what it leaves out
            share=0.1,  # beside any other subset, of every class; more labels than most users of few have
            seed=0,
        )
    )
    c.data.image_size = 32
    c.data.channels = 3
    c.data.crop = "auto"  # device: the images live there; host: decoded as they come; auto: by size
    c.data.canvas = 32
    c.data.max_zoom = 1.0
    c.data.resident_mib = 1024
    c.data.contrast_normalise = False
    c.data.mean = (0.4914, 0.4824, 0.4467)  # (125.3, 123.0, 113.9) / 255
    c.data.std = (0.2471, 0.2435, 0.2616)  # (63.0, 62.1, 66.7) / 255
    c.data.seed = 0
    c.data.max_broken = 0.01
    c.data.threads = 2
    c.data.prefetch = 256
    c.data.holdout = 0.2
    c.data.expect = ConfigDict()  # name in gssl_jax/domains.py -> its source and path

    c.backbone = ConfigDict(
        dict(
            kind="resnet",
            name="wrn_28_2",
            stem="cifar",
            dropout=0.0,
            batch_norm_momentum=0.999,  # the share of the old statistics that stays, that of the average [code]
            dtype="auto",
            weights="",  # a file of published weights to start from; what is printed says what fitted
            allow=(),  # patterns of leaves that may stay as initialised, or of names that may be left over
        )
    )

    c.method = m = ConfigDict()
    m.name = "fixmatch"
    m.hand_over = ("backbone",)  # of the stage before; also projector, predictor, prototypes, heads, teacher
    m.augment = ConfigDict(
        dict(
            train=dict(  # of labelled and weak views, and of strong ones after RandAugment
                size=32,
                pad=4,
                scale=(1.0, 1.0),
                ratio=(1.0, 1.0),
                interpolation="bilinear",
                flip=0.5,
                jitter=dict(probability=0.0, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
                grey=0.0,
                blur=dict(probability=0.0, sigma=(0.1, 2.0)),
                solarise=dict(probability=0.0, threshold=0.5),
            )
        )
    )
    m.strong = ConfigDict(
        dict(
            operations=3,  # RandAugment(3, 5): the 5 is read by nobody in the code, strengths are uniform
            cutout=0.5,  # its side is uniform up to this share of the image's
        )
    )
    m.semi = ConfigDict(
        dict(
            consistency=1.0,  # weight of the loss on unlabelled images; 0.0 = none, and no strong views
            threshold=0.95,  # probability from which on a pseudo-label counts
            hard=True,  # the class; False: probabilities sharpened by
            temperature=0.5,
            transformed=("labelled", "weak", "strong"),  # the views that pretexts transform [code]
            recognised=("labelled",),  # and those on which their losses count [code]
        )
    )
    m.pretexts = ConfigDict(
        dict(
            names=PRETEXTS,  # of rotation, jigsaw, flip, lorot_e, lorot_i, channels
            weight=0.1,  # lambda
            flip_axis="horizontal",
            channels_space="pixels",  # or standardised: exchanged after (x - mean) / std [code]
            jigsaw_grid=2,
            jigsaw_permutations=0,  # 0 = all 24 of a 2 x 2 grid
        )
    )
    m.gate = ConfigDict(
        dict(
            mode="learned",  # learned | frozen (the authors' code) | uniform | sum | none | usefulness (ours)
            formula="mean_of_softmax",  # softmax_of_mean | mean_of_softmax | per_sample
            chance_normalised=False,  # divide each loss by ln of its classes
            entropy_weight=0.0,  # both keep a learned gate open
            load_balance_weight=0.0,
            momentum=0.99,  # usefulness: of the average alignment
            temperature=0.1,
        )
    )
    m.loss = ConfigDict(
        dict(
            kind="ce",  # ce | focal (ldam needs cosines, which are never certain)
            margin=0.5,
            scale=30.0,
            gamma=2.0,  # focal
            reweighting="none",  # none | class_balanced | drw
            beta=0.9999,
            drw_start=0.0,  # in optim.unit
        )
    )
    m.heads = ConfigDict(dict(normed=False, pretext_scale=1.0))  # normed: cosines
    m.ema = ConfigDict(dict(momentum=0.999))  # average of the parameters, which is judged; statistics are copied

    c.optim = o = ConfigDict()
    o.unit = "step"
    o.duration = 1048576.0  # 2^20
    o.batch_size = 64  # labelled images
    o.name = "sgd"
    o.schedule = "fixmatch"  # cos(7 pi t / 16 T)
    o.learning_rate = 0.03
    o.reference_batch = 0
    o.final_learning_rate = 0.0
    o.warmup = 0.0
    o.milestones = ()
    o.factors = ()
    o.weight_decay = 5e-4
    o.final_weight_decay = 5e-4
    o.decay_positions = True
    o.decay_vectors = False  # none on batch norm [code]; here none on the biases of the heads either
    o.momentum = 0.9
    o.nesterov = True
    o.beta1 = 0.9
    o.beta2 = 0.999
    o.clip_norm = 0.0
    o.freeze_prototypes = 0.0
    o.freeze_backbone = -1.0  # in optim.unit: new heads warm up; -1.0: 1/20 of a stage from backbone.weights, else 0
    o.trains = "all"  # all | norm (HPT-BN) | last_k | heads: what of the backbone learns
    o.last_blocks = 0  # last_k: blocks, the norm after them included

    c.evals = presets.labelled_evaluation("tfds", "cifar10", test="test", resize=32)
    c.evals.every = 10000.0  # in optim.unit: validation

    c.continuation = presets.continuation()

    c.run = presets.running(log_every=100, health_every=5000, checkpoint_every=5000)
    return c


def labels_in_all(c, labels):
    """Another number of labelled images; the neighbours of k-NN cannot be more."""
    c.data.streams.labelled.subset.count = labels
    c.evals.knn.k = min(c.evals.knn.k, labels)


def cifar10(c, labels=4000, backbone="wrn_28_2"):
    """The authors' settings; 40, 250 and 4,000 labels are FixMatch's."""
    presets.backbone(c, backbone)
    labels_in_all(c, labels)


def fixmatch(c, labels=4000, backbone="wrn_28_2"):
    """FixMatch itself."""
    cifar10(c, labels, backbone)
    c.method.pretexts.names = ()
    c.method.semi.transformed = c.method.semi.recognised = ()
    c.method.gate.mode = "none"


def plain(c, labels=4000, backbone="wrn_28_2"):
    """`semi-gssl` of the authors' code: no pseudo-labels, the unlabelled images serve the pretexts."""
    cifar10(c, labels, backbone)
    c.method.semi.consistency = 0.0
    c.method.semi.transformed = c.method.semi.recognised = ("weak",)
    c.method.pretexts.weight = 1.0  # their default; their gated configuration has 0.1


def photos(c, backbone="resnet14"):
    """19 embedded photographs, four labelled patches of each; too few steps for an average of .999."""
    for stream in c.data.streams.values():
        stream.update(dict(source="photos", path=""))
    c.evals.data.update(dict(source="photos", path=""))
    labels_in_all(c, 76)
    c.data.mean, c.data.std = (0.45, 0.42, 0.4), (0.25, 0.24, 0.25)
    c.backbone.batch_norm_momentum = 0.9
    c.method.ema.momentum = 0.98
    c.optim.duration = 200.0
    c.optim.batch_size = 16
    c.evals.every = 50.0
    c.run.log_every = 10
    c.run.health_every = 50
    c.run.checkpoint_every = 100
    presets.backbone(c, backbone)


def tiny(c, backbone="resnet14"):
    """The whole path in seconds; its scores mean nothing."""
    photos(c, backbone)
    labels_in_all(c, 38)
    c.data.streams.unlabelled.ratio = 2
    c.method.semi.threshold = 0.1  # six steps make nobody certain
    c.optim.duration = 6.0
    c.optim.batch_size = 48  # more than there are labelled images: some come twice
    c.evals.every = 3.0
    c.evals.linear.update(dict(l2_grid=(1e-2,), max_iterations=50))
    c.evals.tsne_points = 100
    c.evals.health.update(dict(images=200, views=3))
    c.evals.pixel_side = 8
    c.run.log_every = 2
    c.run.health_every = 3
    c.run.checkpoint_every = 3


def folder(c, path, labels=0, size=32, backbone="wrn_28_2"):
    """Class folders of your own, of which `labels` images (0 = all) keep their label."""
    for stream in c.data.streams.values():
        stream.update(dict(source="folder", path=path))
    c.evals.data.update(dict(source="folder", path=path, resize=size))
    if labels:
        labels_in_all(c, labels)
    else:
        c.data.streams.labelled.subset.kind = "all"
    c.data.image_size = c.data.canvas = c.method.augment.train.size = size
    c.method.augment.train.pad = size // 8
    c.optim.duration = 20000.0
    c.evals.every = 1000.0
    presets.backbone(c, backbone)


PRESETS = {"cifar10": cifar10, "fixmatch": fixmatch, "plain": plain, "photos": photos, "tiny": tiny, "folder": folder}


def get_config(argument="cifar10"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
