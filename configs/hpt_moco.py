"""MoCo-v2 as hierarchical pretraining (HPT, arXiv 2103.12718) runs it, and BYOL, on a residual network.

    python -m gssl_jax.main --config=configs/hpt_moco.py[:preset[,key=value ...]] [--config.<knob>=<value> ...]

presets
    imagenet    the recipe of HPT: ResNet-50 at 224 px, from scratch; steps=NUMBER (50, 500, 5000, 50000, ...)
    cifar10     CIFAR-10 through TFDS, ResNet-18, as MoCo's own CIFAR notebook
    photos      (default) the embedded photographs in colour, ResNet-14, 32 px: minutes on a laptop
    earth       three data sets in a chain: photographs, then satellite images, then a relief of the same places;
                steps=NUMBER of the last, augment=SET of presets.TRIALS, percent=NUMBER of its images
    dataset     target=NAME,path=DIR: one of the 16 data sets of the paper (python -m gssl_jax.dataset domains lists
                them) with its protocols; kind=tfds reads TFDS; source=NAME,source_path=DIR puts another one before it;
                weights=FILE is the base, without it ImageNet of TFDS is; steps, augment and percent as above
    tiny        a few steps on a toy network: does everything run?
    folder      path=DIR: your own images, in class folders or without labels; source=DIR: related ones before them;
                weights=FILE: a published backbone to start from; size=PIXELS, steps=NUMBER
Every preset takes method=byol, and backbone=NAME: a ResNet, or a ViT such as vit_ti4 with the optimiser that it needs.

A preset with a chain has the arms of the paper too, `python -m gssl_jax.arms --config=...`: the base as it is and with
batch statistics of the target, the target from scratch, HPT, HPT-BN, and both with a source in between. What is judged
is the student, the encoder of the queries, as in both papers.
"""

from ml_collections import ConfigDict

from gssl_jax import presets


def augment(size, *, scale=(0.2, 1.0), blur=0.5, solarise=0.0, hue=0.4, flip=0.5, grey=0.2):
    """One view as data: sizes in pixels, scales as shares of the image's area, the rest as probabilities [HPT]."""
    return ConfigDict(
        dict(
            size=size,
            pad=0,
            scale=scale,
            ratio=(3 / 4, 4 / 3),
            interpolation="bilinear",
            flip=flip,
            # HPT's configurations turn the hue by up to .4; official MoCo-v2 by .1
            jitter=dict(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=hue),
            grey=grey,
            blur=dict(probability=blur, sigma=(0.1, 2.0)),  # sigma in pixels of the view
            solarise=dict(probability=solarise, threshold=0.5),
        )
    )


def base():
    """HPT's settings for MoCo-v2 on ResNet-50, with ImageNet as the target."""
    c = ConfigDict()
    c.stages = ("target",)
    c.stage = ConfigDict({"target": ConfigDict()})
    c.arms = ConfigDict()  # name -> stages, for python -m gssl_jax.arms
    c.seed = 0

    c.data = ConfigDict()
    c.data.streams = ConfigDict(
        {"train": dict(source="tfds", path="imagenet2012", split="pretrain", size=0, share=1.0, ratio=1)}
    )
    c.data.image_size = 224
    c.data.channels = 3
    c.data.crop = "host"  # device: views from one resident square canvas; host: from the original; auto: by size
    c.data.canvas = 256
    c.data.max_zoom = 1.0  # photos: squares up to this many canvases wide are shrunk into one
    c.data.resident_mib = 1024
    c.data.contrast_normalise = False
    c.data.mean = (0.485, 0.456, 0.406)  # of the data set that is learned from [HPT]
    c.data.std = (0.229, 0.224, 0.225)
    c.data.seed = 0
    c.data.max_broken = 0.01
    c.data.threads = 16
    c.data.prefetch = 64
    c.data.holdout = 0.2
    c.data.expect = ConfigDict()  # name in gssl_jax/domains.py -> its source and path

    c.backbone = ConfigDict(
        dict(
            kind="resnet",
            name="resnet50",
            stem="imagenet",  # imagenet: 7x7 and a max-pool; cifar: 3x3
            dropout=0.0,
            batch_norm_momentum=0.9,
            dtype="auto",
            weights="",  # a file of published weights to start from; what is printed says what fitted
            allow=(),  # patterns of leaves that may stay as initialised, or of names that may be left over
        )
    )

    c.method = m = ConfigDict()
    m.name = "moco"
    m.hand_over = ("backbone",)  # of the stage before; also projector, predictor, prototypes, heads, teacher
    m.augment = ConfigDict(dict(view_1=augment(224), view_2=augment(224)))  # of the query, of the key
    m.projector = ConfigDict(dict(hidden=2048, output=128))
    m.temperature = 0.2
    m.queue = ConfigDict(
        dict(
            length=65536,  # a multiple of the keys of a step
            start="noise",  # noise: random directions are negatives until keys replace them [code]; empty: they are not
        )
    )
    m.momentum = ConfigDict(dict(start=0.999, end=0.999, curve="cosine"))  # of the teacher, the encoder of the keys
    m.shuffle_bn = ConfigDict(
        dict(
            groups=4,  # of the batch, with batch statistics of their own: HPT's GPUs (MoCo-v2: 8); 1 = the whole batch
            shuffle=True,  # keys change groups before they are encoded
        )
    )
    m.symmetric = False  # both views are queries and keys [MoCo's CIFAR notebook can]

    c.optim = o = ConfigDict()
    o.unit = "step"
    o.duration = 200_000.0  # HPT without a base: 5,000, 50,000, 100,000, 200,000 and 400,000
    o.batch_size = 256
    o.name = "sgd"
    o.schedule = "cosine"  # to 0, changing with every step, no warm-up [HPT]
    o.learning_rate = 0.03
    o.reference_batch = 0  # the learning rate as it is
    o.milestones = ()
    o.factors = ()
    o.final_learning_rate = 0.0
    o.warmup = 0.0
    o.weight_decay = 1e-4
    o.final_weight_decay = 1e-4
    o.decay_positions = True
    o.decay_vectors = True  # all parameters [HPT]
    o.momentum = 0.9
    o.nesterov = False
    o.beta1 = 0.9  # adamw only
    o.beta2 = 0.999
    o.clip_norm = 0.0
    o.freeze_prototypes = 0.0
    o.freeze_backbone = -1.0  # in optim.unit: new heads warm up; -1.0: 1/20 of a stage from backbone.weights, else 0
    o.trains = "all"  # all | norm (HPT-BN) | last_k | heads: what of the backbone learns
    o.last_blocks = 0  # last_k: blocks, the norm after them included

    c.evals = presets.evaluation("tfds", "imagenet2012", train="train", test="validation", resize=256)
    c.evals.which = "student"

    c.continuation = presets.continuation()

    c.run = presets.running(log_every=20, health_every=50, checkpoint_every=1000)
    return c


def byol(c):
    """The method of arXiv 2006.07733 on the same images: its heads and its teacher, both views as they are.

    The paper's optimiser is LARS at batches of 4,096, which is not here: rate and decay are those with which SimSiam
    (arXiv 2011.10566, section 4) trains the same kind of network by SGD.
    """
    c.method = ConfigDict(
        dict(
            name="byol",
            hand_over=("backbone",),
            augment=c.method.augment,
            projector=dict(hidden=4096, output=256),
            predictor=dict(hidden=4096),
            momentum=dict(start=0.996, end=1.0, curve="cosine"),  # over the run
        )
    )
    c.optim.update(dict(learning_rate=0.05, reference_batch=256, weight_decay=1e-4, final_weight_decay=1e-4))


METHODS = {"moco": lambda c: None, "byol": byol}


def use(c, backbone, method):
    """The method and the backbone by name; a transformer has no batch norm to shuffle."""
    if method not in METHODS:
        raise presets.unknown("method", method, METHODS)
    METHODS[method](c)
    presets.backbone(c, backbone)
    if method == "moco" and c.backbone.kind == "vit":
        c.method.shuffle_bn.groups = 1


def use_size(c, size):
    """Images and views of `size` pixels; small ones keep their pixels in the stem."""
    c.data.image_size = size
    for view in c.method.augment.values():
        view.size = size
    c.backbone.stem = "imagenet" if size >= 96 else "cifar"


def imagenet(c, steps=200_000, backbone="resnet50", method="moco"):
    """HPT's recipe; with BYOL the views of its paper."""
    c.optim.duration = float(steps)
    if method == "byol":
        for name, blur, solarise in (("view_1", 1.0, 0.0), ("view_2", 0.1, 0.2)):  # arXiv 2006.07733, table 6
            view = augment(224, scale=(0.08, 1.0), blur=blur, solarise=solarise, hue=0.1)
            view.interpolation, view.jitter.saturation = "bicubic", 0.2
            c.method.augment[name] = view
    use(c, backbone, method)


def small(c):
    """One machine: images on the device where they fit, two threads, logs and checkpoints more often."""
    c.data.crop = "auto"
    c.data.threads = 2
    c.data.prefetch = 256
    c.evals.pixel_side = 32
    c.run.log_every = 10
    c.run.health_every = 20
    c.run.checkpoint_every = 200


def cifar10(c, backbone="resnet18", method="moco"):
    """MoCo's own CIFAR-10 notebook (github.com/facebookresearch/moco): no blur, a short queue, a fast teacher."""
    small(c)
    c.data.streams.train.path = c.evals.data.path = "cifar10"
    c.evals.data.update(dict(test="test", resize=32))
    c.data.canvas = 32
    c.data.mean, c.data.std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    c.method.augment = ConfigDict({name: augment(32, blur=0.0, hue=0.1) for name in ("view_1", "view_2")})
    use_size(c, 32)
    c.method.projector.hidden = 512
    c.method.temperature = 0.1
    c.method.queue.length = 4096
    c.method.momentum.update(dict(start=0.99, end=0.99))
    c.method.shuffle_bn.groups = 8
    c.optim.unit = "epoch"
    c.optim.duration = 200.0
    c.optim.batch_size = 512
    c.optim.learning_rate = 0.06
    c.optim.weight_decay = c.optim.final_weight_decay = 5e-4
    c.run.log_every = 20
    c.run.health_every = 200
    c.run.checkpoint_every = 1000
    use(c, backbone, method)


def photos(c, backbone="resnet14", method="moco"):
    """19 embedded photographs; views are squares of 32 pixels out of one canvas of 128."""
    small(c)
    c.data.streams.train.update(dict(source="photos", path="", size=4096))
    c.evals.data.update(dict(source="photos", path="", test="test", resize=32))
    c.data.canvas = 128
    c.data.mean, c.data.std = (0.45, 0.42, 0.4), (0.25, 0.24, 0.25)
    box = (32 / 128) ** 2
    views = {name: augment(32, scale=(box, box), blur=0.0, hue=0.1, grey=0.0) for name in ("view_1", "view_2")}
    c.method.augment = ConfigDict(views)
    use_size(c, 32)
    c.method.projector.hidden = 64
    c.method.queue.length = 2048
    c.method.momentum.update(dict(start=0.99, end=0.99))
    c.method.shuffle_bn.groups = 8
    c.optim.duration = 400.0
    c.optim.batch_size = 64
    use(c, backbone, method)
    if method == "byol":
        c.method.projector.update(dict(hidden=256, output=64))
        c.method.predictor.hidden = 256
        c.method.momentum.start = 0.97


MARBLE = dict(mean=(0.37, 0.35, 0.24), std=(0.25, 0.22, 0.24))  # of the tiles with a label, as the next
SHADED = dict(mean=(0.68, 0.72, 0.67), std=(0.12, 0.07, 0.08))


def earth(c, steps=200, augment="baseline", percent=100, backbone="resnet14", method="moco"):
    """From photographs to satellite images to a shaded relief: 12 regions of the Earth have to be told apart.

    Tiles are small: views are crops of one, and a sigma of 2 for 224 pixels would be .3 for theirs, which does nothing.
    Their colours say most and differ little (a brightness of .4 is three standard deviations): with the paper's jitter
    the target makes the base worse.
    """
    photos(c, backbone, method)
    photographs = presets.as_stage(c, duration=400.0)
    c.data.streams.train.update(dict(source="earth", path="shaded", size=0, share=percent / 100))
    c.evals.data.update(dict(source="earth", path="shaded"))
    c.data.canvas = 36
    c.data.update(SHADED)
    for view in c.method.augment.values():
        view.update(dict(scale=(0.3, 1.0), grey=0.1))
        view.jitter.update(dict(brightness=0.1, contrast=0.2, saturation=0.2, hue=0.02))
        view.blur.update(dict(probability=0.5, sigma=(0.1, 1.0)))
    satellite = dict(
        data=dict(streams=dict(train=dict(path="bluemarble", share=1.0)), **MARBLE),
        method=dict(augment=c.method.augment.to_dict()),
        optim=dict(duration=400.0),
    )
    presets.leave_out(c.method.augment, augment)  # on the target
    c.optim.duration = float(steps)
    presets.hierarchy(c, base=photographs, source=satellite)


def dataset(
    c, target, path="", kind="lists", source="", source_path="", weights="", steps=5000, augment="baseline",
    percent=100, backbone="resnet50", method="moco",
):  # fmt: skip
    """A data set of the paper as the target: its stages of 5,000 and 50,000 steps after a base of 800 epochs.

    Judged by the paper's protocols too: the linear layer over 5,000 iterations, fine-tuning with 1,000 labels.
    """
    imagenet(c, steps, backbone, method)
    base = presets.as_stage(c, duration=800.0 * 5004)  # steps of an epoch
    presets.domains.use(c, target, path, kind)
    before = None
    if source:
        before = presets.domains.stage(c, source, source_path, kind)
        before["data"]["streams"]["train"]["share"] = 1.0
        before |= dict(method=dict(augment=c.method.augment.to_dict()), optim=dict(duration=50_000.0))
    c.data.streams.train.share = percent / 100
    presets.leave_out(c.method.augment, augment)
    c.backbone.weights = weights
    c.evals.sgd_linear.steps = 5000
    c.evals.finetune.update(dict(labels=(1000,), epochs=90))
    presets.hierarchy(c, base=None if weights else base, source=before)


def tiny(c, backbone="resnet14", method="moco"):
    """The whole path in seconds; its scores mean nothing."""
    photos(c, backbone, method)
    c.data.streams.train.size = 128
    c.optim.duration = 8.0
    c.optim.batch_size = 32
    if method == "moco":
        c.method.queue.length = 128
    c.evals.lowshot.draws = 10
    c.evals.linear.update(dict(l2_grid=(1e-4, 1e-2), max_iterations=50))
    c.evals.tsne_points = 100
    c.evals.health.update(dict(images=200, views=3))
    c.evals.pixel_side = 8
    short = dict(optim=dict(duration=4.0))
    presets.hierarchy(c, base=short, source=short)
    c.stages = ("target",)
    c.run.log_every = 2
    c.run.health_every = 4
    c.run.checkpoint_every = 4


def folder(c, path, source="", weights="", size=64, steps=2000, backbone="resnet14", method="moco"):
    """Any folder of images; 64 px and a small network run on a laptop, size=224,backbone=resnet50 wants a GPU."""
    small(c)
    c.data.streams.train.update(dict(source="folder", path=path))
    c.evals.data.update(dict(source="folder", path=path, test="test", resize=size * 8 // 7))
    c.data.canvas = size * 2
    use_size(c, size)
    if size < 96:
        for view in c.method.augment.values():
            view.blur.probability = 0.0  # sigma up to 2 erases a small image
    c.method.queue.length = 4096
    c.method.shuffle_bn.groups = 8
    c.method.momentum.update(dict(start=0.99, end=0.99))
    c.optim.duration = float(steps)
    c.optim.batch_size = 64
    use(c, backbone, method)
    c.backbone.weights = weights
    if source or weights:
        presets.hierarchy(
            c, base=None, source=dict(data=dict(streams=dict(train=dict(path=source)))) if source else None
        )


PRESETS = {
    "photos": photos,
    "imagenet": imagenet,
    "cifar10": cifar10,
    "earth": earth,
    "dataset": dataset,
    "tiny": tiny,
    "folder": folder,
}


def get_config(argument="photos"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
