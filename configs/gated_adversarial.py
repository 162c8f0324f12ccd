"""Adversarial training with gated pretext tasks beside it: G-SSL after Hendrycks et al., 2019 (arXiv 2301.05865).

    python -m gssl_jax.main --config=configs/gated_adversarial.py[:preset[,key=value ...]] [--config.<knob>=<value> ...]

presets
    cifar10     (default) CIFAR-10 through TFDS, WRN-40-2, PGD of 10 steps in training, 200 epochs
    cifar100    the same for CIFAR-100
    photos      the embedded photographs in colour, a small network, 3 attack steps: some minutes on a laptop
    tiny        a few steps on a toy network: does everything run?
Every preset takes backbone=NAME: a ResNet, or a ViT such as vit_ti4 with the optimiser that it needs.

results.json holds the accuracy on clean test images (`accuracy/top1`) and under each attack of `evals.attacks`
(`accuracy_pgd20/top1`, ...). Hendrycks et al. (arXiv 1906.12340) report for CIFAR-10, WRN-40-2, clean / PGD-20 /
PGD-100: adversarial training 84.2 / 44.8 / 44.8, with whole-image rotations beside it 83.5 / 50.4 / 50.4. A model is
chosen by clean validation images (the authors: by clean test images), which says nothing of its robustness.

A step costs one gradient more for each attack step: 11 times that of a supervised step with 10.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

PRETEXTS = ("lorot_e", "flip", "channels")


def base():
    """The authors' settings for CIFAR-10."""
    c = ConfigDict()
    c.stages = ("target",)
    c.stage = ConfigDict({"target": ConfigDict()})
    c.arms = ConfigDict()  # name -> stages, for python -m gssl_jax.arms
    c.seed = 0

    c.data = ConfigDict()
    c.data.streams = ConfigDict(
        {"train": dict(source="tfds", path="cifar10", split="train", size=0, share=1.0, ratio=1)}
    )
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
    c.data.image_size = 32
    c.data.channels = 3
    c.data.crop = "auto"  # device: the images live there; host: decoded as they come; auto: by size
    c.data.canvas = 32
    c.data.max_zoom = 1.0
    c.data.resident_mib = 1024
    c.data.contrast_normalise = False
    c.data.mean = (0.5,)  # the network is fed 2x - 1
    c.data.std = (0.5,)
    c.data.seed = 0
    c.data.max_broken = 0.01
    c.data.threads = 2
    c.data.prefetch = 256
    c.data.holdout = 0.2
    c.data.expect = ConfigDict()  # name in gssl_jax/domains.py -> its source and path

    c.backbone = ConfigDict(
        dict(
            kind="resnet",
            name="wrn_40_2",
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
    m.pretexts = ConfigDict(
        dict(
            names=PRETEXTS,  # of rotation, jigsaw, flip, lorot_e, lorot_i, channels, relative_position
            weight=0.1,  # lambda
            flip_axis="horizontal",
            channels_space="pixels",  # or standardised: exchanged after (x - mean) / std [code]
            jigsaw_grid=2,
            jigsaw_permutations=0,  # 0 = all 24 of a 2 x 2 grid
            relative_patch=10,  # pixels, as the next three
            relative_gap=1,
            relative_jitter=0,
            relative_size=16,
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
        dict(
            steps=10,  # on the transformed images, by the loss of labels and pretexts; 0 = none
            epsilon=8 / 255,
            step_size=2 / 255,  # the authors' configuration says 2. / 225, a slip
            random_start=True,
            statistics="running",  # of batch norm under attack: running | batch (the code, which also keeps them)
        )
    )
    m.ema = ConfigDict(dict(momentum=0.0))  # average of the parameters that is judged; 0 = none

    c.optim = o = ConfigDict()
    o.unit = "epoch"
    o.duration = 200.0
    o.batch_size = 128
    o.name = "sgd"
    o.schedule = "cosine"  # changing with every step
    o.learning_rate = 0.1
    o.reference_batch = 0
    o.final_learning_rate = 1e-6
    o.warmup = 0.0
    o.milestones = ()
    o.factors = ()
    o.weight_decay = 5e-4
    o.final_weight_decay = 5e-4
    o.decay_positions = True
    o.decay_vectors = True  # torch decays everything
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
    c.evals.every = 5.0  # in optim.unit: validation
    c.evals.attacks.pgd20 = ConfigDict(dict(epsilon=8 / 255, step_size=2 / 255, steps=20))
    c.evals.attacks.pgd100 = ConfigDict(dict(epsilon=8 / 255, step_size=0.3 / 255, steps=100))

    c.continuation = presets.continuation()

    c.run = presets.running(log_every=50, health_every=500, checkpoint_every=1000)
    return c


def cifar10(c, backbone="wrn_40_2"):
    """The authors' settings."""
    presets.backbone(c, backbone)


def cifar100(c, backbone="wrn_40_2"):
    """One hundred classes."""
    presets.backbone(c, backbone)
    c.data.streams.train.path = c.evals.data.path = "cifar100"


def photos(c, backbone="resnet14"):
    """19 embedded photographs, 180 patches of each to train on; one patch, one label."""
    c.data.streams.train.update(dict(source="photos", path=""))
    c.evals.data.update(dict(source="photos", path=""))
    c.method.attack.steps = 3
    c.method.attack.step_size = 4 / 255  # three steps have to reach the border of the box
    c.optim.unit = "step"
    c.optim.duration = 200.0
    c.optim.batch_size = 64
    c.optim.learning_rate = 0.05
    c.evals.every = 50.0
    del c.evals.attacks["pgd100"]  # as long as the whole training here
    c.run.log_every = 10
    c.run.health_every = 50
    c.run.checkpoint_every = 100
    presets.backbone(c, backbone)


def tiny(c, backbone="resnet14"):
    """The whole path in seconds; its scores mean nothing."""
    photos(c, backbone)
    c.data.streams.train.subset.update(dict(kind="shots", count=10))
    c.method.attack.steps = 2
    c.optim.duration = 6.0
    c.optim.batch_size = 32
    c.evals.every = 3.0
    c.evals.attacks = ConfigDict(dict(pgd2=dict(epsilon=8 / 255, step_size=4 / 255, steps=2)))
    c.evals.linear.update(dict(l2_grid=(1e-2,), max_iterations=50))
    c.evals.tsne_points = 100
    c.evals.health.update(dict(images=200, views=3))
    c.evals.pixel_side = 8
    c.run.log_every = 2
    c.run.health_every = 3
    c.run.checkpoint_every = 3


PRESETS = {"cifar10": cifar10, "cifar100": cifar100, "photos": photos, "tiny": tiny}


def get_config(argument="cifar10"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
