"""G-SSL on Tiny-ImageNet: supervised training with gated pretext tasks beside it (arXiv 2301.05865, 2307.14897).

    python -m gssl_jax.main --config=configs/gated_tinyimagenet.py:preset[,key=value ...] [--config.<knob>=<value> ...]

presets
    tinyimagenet  (default) path=DIR: ResNet-18, 400 epochs, batch 100
    earlier       path=DIR: the protocol behind the authors' logs: 300 epochs, batch 256, half the learning rate
    photos        the embedded photographs in colour, 64 px, a small network: some minutes on a laptop
    tiny          a few steps on a toy network: does everything run?
Every preset takes backbone=NAME: a ResNet, or a ViT such as vit_ti4 with the optimiser that it needs.

DIR holds class folders, train/<class>/... and test/<class>/...: of tiny-imagenet-200 take train/ as it is, and for
test/ the 10,000 images of val/, each moved into the folder of its class (val_annotations.txt); its own test/ has no
labels. Or tfds=NAME in place of path: a set prepared with TFDS, by name or by the folder it was prepared in.

The authors' logs (earlier protocol, best epoch on the test set): supervised 46.9, LoRot 48.7 and 49.1, three gated
pretexts 48.3 and 49.0. Here a model is chosen on validation images, so expect less.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

PRETEXTS = ("lorot_e", "flip", "channels")


def base():
    """The authors' settings."""
    c = ConfigDict()
    c.stages = ("target",)
    c.stage = ConfigDict({"target": ConfigDict()})
    c.arms = ConfigDict()  # name -> stages, for python -m gssl_jax.arms
    c.seed = 0

    c.data = ConfigDict()
    c.data.streams = ConfigDict({"train": dict(source="folder", path="", split="train", size=0, share=1.0, ratio=1)})
    # ratio: images of this stream for each one of optim.batch_size
    c.data.streams.train.subset = ConfigDict(
        dict(
            kind="all",  # all | long_tail | labels | share | shots
            profile="exponential",  # exponential | step
            factor=0.01,  # images of the last class over those of the first
            shuffle_classes=False,  # long_tail: the seed draws which class is rich
            count=0,  # labels: images in all; shots: of each class; long_tail: of the first class, 0 = all
            share=1.0,  # share: of every class
            seed=0,
        )
    )
    c.data.validation = ConfigDict(
        dict(
            per_class=25,  # beside a long tail, of what it leaves out
            share=0.1,  # beside any other subset, of every class
            seed=0,
        )
    )
    c.data.image_size = 64
    c.data.channels = 3
    c.data.crop = "auto"  # device: the images live there; host: decoded as they come; auto: by size
    c.data.canvas = 64
    c.data.max_zoom = 1.0
    c.data.resident_mib = 2048  # 90,000 images are 1,055 MiB
    c.data.contrast_normalise = False
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.seed = 0
    c.data.max_broken = 0.01
    c.data.threads = 2
    c.data.prefetch = 256
    c.data.holdout = 0.2
    c.data.expect = ConfigDict()  # name in gssl_jax/domains.py -> its source and path

    c.backbone = ConfigDict(
        dict(
            kind="resnet",
            name="resnet18",
            stem="cifar",  # cifar: 3x3; imagenet: 7x7 and a max-pool
            dropout=0.0,
            batch_norm_momentum=0.9,
            dtype="auto",
            weights="",  # a file of published weights to start from; what is printed says what fitted
            allow=(),  # patterns of leaves that may stay as initialised, or of names that may be left over
        )
    )

    c.method = m = ConfigDict()
    m.name = "gated"
    m.hand_over = ("backbone",)  # of the stage before; also projector, predictor, prototypes, heads, teacher
    m.augment = ConfigDict(
        dict(
            train=dict(
                size=64,
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
    m.pretexts = ConfigDict(
        dict(
            names=PRETEXTS,  # of rotation, jigsaw, flip, lorot_e, lorot_i, channels, relative_position
            weight=0.1,  # lambda
            flip_axis="horizontal",
            channels_space="pixels",  # or standardised: exchanged after (x - mean) / std [code]
            jigsaw_grid=2,
            jigsaw_permutations=0,  # 0 = all 24 of a 2 x 2 grid
            relative_patch=19,  # pixels, as the next three
            relative_gap=2,
            relative_jitter=1,
            relative_size=32,
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
            kind="ce",  # ce | ldam | focal
            margin=0.5,  # ldam: of the rarest class
            scale=30.0,
            gamma=2.0,  # focal
            reweighting="none",  # none | class_balanced | drw
            beta=0.9999,
            drw_start=0.0,  # in optim.unit
        )
    )
    m.heads = ConfigDict(
        dict(
            normed=False,  # cosines, as LDAM needs
            pretext_scale=1.0,  # of the pretexts' cosines, where normed
        )
    )
    m.attack = ConfigDict(
        dict(steps=0, epsilon=8 / 255, step_size=2 / 255, random_start=True, statistics="running")  # running | batch
    )
    m.ema = ConfigDict(dict(momentum=0.0))  # average of the parameters that is judged; 0 = none

    c.optim = o = ConfigDict()
    o.unit = "epoch"
    o.duration = 400.0
    o.batch_size = 100
    o.name = "sgd"
    o.schedule = "cosine_by_unit"  # changing with every epoch
    o.learning_rate = 0.2
    o.reference_batch = 0
    o.final_learning_rate = 0.0
    o.warmup = 0.0
    o.milestones = ()
    o.factors = ()
    o.weight_decay = 1e-4
    o.final_weight_decay = 1e-4
    o.decay_positions = True
    o.decay_vectors = True  # torch decays everything
    o.momentum = 0.9
    o.nesterov = False
    o.beta1 = 0.9
    o.beta2 = 0.999
    o.clip_norm = 0.0
    o.freeze_prototypes = 0.0
    o.freeze_backbone = -1.0  # in optim.unit: new heads warm up; -1.0: 1/20 of a stage from backbone.weights, else 0
    o.trains = "all"  # all | norm (HPT-BN) | last_k | heads: what of the backbone learns
    o.last_blocks = 0  # last_k: blocks, the norm after them included

    c.evals = presets.labelled_evaluation("folder", "", test="test", resize=64)
    c.evals.every = 5.0  # in optim.unit: validation

    c.continuation = presets.continuation()

    c.run = presets.running(log_every=50, health_every=500, checkpoint_every=1000)
    return c


def tinyimagenet(c, path="", tfds="", backbone="resnet18"):
    """The images, from a folder or from TFDS."""
    if bool(path) == bool(tfds):
        raise ValueError(
            "Tiny-ImageNet needs a place: --config=configs/gated_tinyimagenet.py:tinyimagenet,path=DIR with train/ and "
            "test/ in class folders, or tfds=NAME"
        )
    place = dict(source="folder", path=path) if path else dict(source="tfds", path=tfds)
    c.data.streams.train.update(place)
    c.evals.data.update(place)
    presets.backbone(c, backbone)


def earlier(c, path="", tfds="", backbone="resnet18"):
    """The protocol behind the authors' logs."""
    tinyimagenet(c, path, tfds)
    c.optim.duration = 300.0
    c.optim.batch_size = 256
    c.optim.learning_rate = 0.1
    c.optim.weight_decay = c.optim.final_weight_decay = 2e-4
    presets.backbone(c, backbone)


def photos(c, backbone="resnet14"):
    """19 embedded photographs, 180 patches of 64 px of each to train on; one patch, one label."""
    c.data.streams.train.update(dict(source="photos", path=""))
    c.evals.data.update(dict(source="photos", path=""))
    c.optim.unit = "step"
    c.optim.schedule = "cosine"
    c.optim.duration = 200.0
    c.optim.batch_size = 64
    c.optim.learning_rate = 0.05
    c.evals.every = 50.0
    c.run.log_every = 10
    c.run.health_every = 50
    c.run.checkpoint_every = 100
    presets.backbone(c, backbone)


def tiny(c, backbone="resnet14"):
    """The whole path in seconds; its scores mean nothing."""
    photos(c, backbone)
    c.data.streams.train.subset.update(dict(kind="shots", count=10))
    c.optim.duration = 6.0
    c.optim.batch_size = 32
    c.evals.every = 3.0
    c.evals.linear.update(dict(l2_grid=(1e-2,), max_iterations=50))
    c.evals.tsne_points = 100
    c.evals.health.update(dict(images=200, views=3))
    c.evals.pixel_side = 8
    c.run.log_every = 2
    c.run.health_every = 3
    c.run.checkpoint_every = 3


PRESETS = {"tinyimagenet": tinyimagenet, "earlier": earlier, "photos": photos, "tiny": tiny}


def get_config(argument="tinyimagenet"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
