"""MaskCluster on a vision transformer.

    python -m gssl_jax.main --config=configs/maskcluster_vit.py[:preset[,key=value ...]] [--config.<knob>=<value> ...]

presets
    photos      (default) the embedded photographs, grey and contrast-normalised, 32 px: a newcomer's demo
    photos_rgb  the same photographs in colour
    tiny        a few steps on a toy network: does everything run?
    cifar10     CIFAR-10 through TFDS (prepare it once as ArrayRecord), ViT-Ti/4
    imagenet    the paper's recipe: ImageNet-1K at 224 px, ViT-S/16; backbone=vit_b16 for ViT-B/16
    folder      path=DIR: your own images, in class folders or without labels; size=PIXELS, backbone=NAME

Presets choose values; every value below can be changed by itself: --config.method.collapse.patch=memax
"""

from ml_collections import ConfigDict

from gssl_jax import presets


def augment(size, scale, *, blur, solarise, ratio=(3 / 4, 4 / 3), flip=0.5, jitter=0.8, grey=0.2):
    """One view as data: sizes in pixels, scales as shares of the image's area, the rest as probabilities [DINO]."""
    return ConfigDict(
        dict(
            size=size,
            pad=0,  # pixels of black around the image in which a window of its size moves
            scale=scale,
            ratio=ratio,
            interpolation="bicubic",
            flip=flip,
            jitter=dict(probability=jitter, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
            grey=grey,
            blur=dict(probability=blur, sigma=(0.1, 2.0)),  # sigma in pixels of the view
            solarise=dict(probability=solarise, threshold=0.5),
        )
    )


def base():
    """The paper's recipe for ViT-S/16 on ImageNet-1K; basis of each choice in brackets."""
    c = ConfigDict()
    c.stages = ("target",)  # the chain of stages; `stage.<name>` holds what each changes
    c.stage = ConfigDict({"target": ConfigDict()})
    c.arms = ConfigDict()  # name -> stages, for python -m gssl_jax.arms
    c.seed = 0

    c.data = ConfigDict()
    c.data.streams = ConfigDict(
        {"train": dict(source="tfds", path="imagenet2012", split="pretrain", size=0, share=1.0, ratio=1)}
    )
    # ratio: images of this stream for each one of optim.batch_size
    c.data.image_size = 224
    c.data.channels = 3
    c.data.crop = "host"  # device: all crops from one resident square canvas; host: from the original; auto: by size
    c.data.canvas = 256  # side of the resident canvas in pixels, crop = device only
    c.data.max_zoom = 1.0  # photos: squares up to this many canvases wide are shrunk into one
    c.data.resident_mib = 1024  # limit for crop = auto
    c.data.contrast_normalise = False  # grey only; of every view and evaluation image: one mean, one contrast
    c.data.mean = (0.485, 0.456, 0.406)
    c.data.std = (0.229, 0.224, 0.225)
    c.data.seed = 0
    c.data.max_broken = 0.01  # share of unreadable images that stops the run
    c.data.threads = 16
    c.data.prefetch = 64  # decoded samples waiting
    c.data.holdout = 0.2  # class folders without a test folder: share held out
    c.data.expect = ConfigDict()  # name in gssl_jax/domains.py -> its source and path

    c.backbone = ConfigDict(dict(kind="vit", **presets.known_vit("vit_s16")))
    c.backbone.mlp_ratio = 4.0
    c.backbone.registers = 0
    c.backbone.positions = "learned"
    c.backbone.drop_path = 0.1  # student only [MC-SSL]
    c.backbone.layer_scale = 0.0  # initial residual scale, 0 = none
    c.backbone.layer_norm_eps = 1e-6
    c.backbone.dtype = "auto"  # float32 on CPU, else bfloat16; norms, softmax, prototypes and losses stay float32
    c.backbone.weights = ""  # a file of published weights to start from; what is printed says what fitted
    c.backbone.allow = ()  # patterns of leaves that may stay as initialised, or of names that may be left over

    c.method = m = ConfigDict()
    m.name = "maskcluster"
    m.hand_over = ("backbone",)  # of the stage before; also projector, predictor, prototypes, heads, teacher
    m.views = ConfigDict({"globals": 2, "locals": 10})  # locals serve the class loss only [MC-SSL]
    m.augment = ConfigDict(
        dict(
            global_1=augment(224, (0.25, 1.0), blur=1.0, solarise=0.0),
            global_2=augment(224, (0.25, 1.0), blur=0.1, solarise=0.2),  # and every further global view
            local=augment(96, (0.05, 0.25), blur=0.5, solarise=0.0),
        )
    )
    m.corruption = ConfigDict(
        dict(
            kind="noise",  # noise | zeros | foreign | token | drop
            ratio=0.5,  # share of the image hidden [MC-SSL]
            spread=0.0,  # token only: that share is drawn for each image from ratio -+ spread [iBOT: .2]
            images=1.0,  # token only: share of the images of which anything is hidden [iBOT: .5]
            align=1,  # masks in cells of this many pixels; the patch size for whole patches [GMML: 1]
            max_side=0.3,  # largest box side as a share of the image side [GMML]
            foreign_probability=0.5,  # images whose corruption is replaced by another image's content [GMML]
            foreign_ratio=0.3,
        )
    )
    m.projector = ConfigDict(dict(layers=3, hidden=2048, output=256, shared=True, norm="none"))  # [MC-SSL]
    m.prototypes = ConfigDict(dict(cls=8192, patch=8192))  # [MC-SSL]
    m.collapse = ConfigDict(dict(cls="sinkhorn", patch="sinkhorn"))  # sinkhorn | memax | centring | none
    m.temperature = ConfigDict(
        dict(student=0.1, teacher_start=0.04, teacher_end=0.07, teacher_warmup=30.0)  # in optim.unit [DINO]
    )
    m.sinkhorn = ConfigDict(dict(eps=0.05, iterations=3, positionwise=False))  # [SwAV; positionwise: CAPI]
    m.memax = ConfigDict(dict(weight=1.0, sharpen=0.25))  # beside the level's cross-entropy, times its weight [MSN]
    m.centring = ConfigDict(dict(momentum=0.9))  # [DINO]
    m.loss = ConfigDict(
        dict(cls=1.0, patch=1.0, reconstruction=1.0, same_view=False, patch_tokens="all")  # all | masked [MC-SSL: all]
    )
    m.reconstruction = ConfigDict(dict(layers=2))  # hidden layers of the reconstruction head [MC-SSL]
    m.momentum = ConfigDict(dict(start=0.996, end=1.0, curve="cosine"))  # of the teacher [MC-SSL]
    m.health_rows = 4096  # targets looked at for entropies and prototype use

    c.optim = o = ConfigDict()
    o.unit = "epoch"  # every duration below, and method.temperature.teacher_warmup, counts these: epoch | step
    o.duration = 800.0
    o.batch_size = 1024
    o.name = "adamw"  # adamw | sgd
    o.schedule = "cosine"  # cosine | cosine_by_unit | steps | fixmatch
    o.learning_rate = 5e-4  # for a batch of reference_batch, scaled linearly [MC-SSL]
    o.reference_batch = 256  # 0 = the learning rate as it is
    o.milestones = ()  # schedule = steps: units from which on the peak is multiplied by factors
    o.factors = ()
    o.final_learning_rate = 1e-6
    o.warmup = 10.0
    o.weight_decay = 0.04
    o.final_weight_decay = 0.4  # cosine [MC-SSL]
    o.decay_positions = True  # class token and positions decay too [MC-SSL excludes only vectors]
    o.decay_vectors = False  # biases and the scales of norms
    o.beta1 = 0.9
    o.beta2 = 0.999
    o.momentum = 0.9  # sgd only
    o.nesterov = False
    o.clip_norm = 3.0  # global norm [MSN]; 0 = off
    o.freeze_prototypes = 1.0  # both cluster layers [DINO]
    o.freeze_backbone = -1.0  # in optim.unit: new heads warm up; -1.0: 1/20 of a stage from backbone.weights, else 0
    o.trains = "all"  # all | norm (HPT-BN) | last_k | heads: what of the backbone learns
    o.last_blocks = 0  # last_k: blocks, the norm after them included

    c.evals = presets.evaluation("tfds", "imagenet2012", train="train", test="validation", resize=256)
    c.evals.lowshot.feature = "cls_prenorm"

    c.continuation = presets.continuation()

    c.run = presets.running(log_every=20, health_every=50, checkpoint_every=1000)
    return c


def use_backbone(c, name):
    """A backbone by name; masks that were made of whole patches stay so."""
    aligned = c.method.corruption.align == c.backbone.patch
    c.backbone.update(presets.known_vit(name))
    if aligned:
        c.method.corruption.align = c.backbone.patch


def use_size(c, size, local):
    """Views of `size` pixels and local views of `local`, a multiple of the patch."""
    c.data.image_size = size
    for name in ("global_1", "global_2"):
        c.method.augment[name].size = size
    c.method.augment["local"].size = local


def small(c):
    """One machine, minutes: fewer prototypes than rows, a projector and a teacher that get going in few steps."""
    c.data.crop = "auto"
    c.data.threads = 2
    c.data.prefetch = 256
    c.method.projector.update(dict(layers=2, hidden=512, output=128, shared=False, norm="batch"))
    c.method.prototypes.update(dict(cls=64, patch=128))
    c.method.sinkhorn.eps = 0.03
    c.method.memax.weight = 5.0  # at 1 the class targets thin out to a handful of prototypes
    c.method.momentum.start = 0.97  # below, centring and ME-MAX thin out, see docs/results
    c.method.temperature.teacher_warmup = 0.0
    c.method.temperature.teacher_end = 0.085  # centring thins out at .07, see docs/results
    c.optim.unit = "step"
    c.optim.freeze_prototypes = 0.0
    c.evals.pixel_side = 32
    c.run.checkpoint_every = 200
    c.run.log_every = 10
    c.run.health_every = 20


def photos(c, channels=1):
    """19 embedded photographs, 32 px patches; choices that differ from the paper's recipe are measured, see docs.

    The question is which photograph a patch comes from, so grain, contrast and orientation are what tells, not what
    disturbs: views are squares of 32 pixels of one canvas at native resolution, without blur or flip. Grey patches are
    contrast-normalised. In colour the light differs between the two ends of a photograph: views are jittered, and two
    of them may lie further apart. The class loss counts three times: it makes patches of one photograph alike.
    """
    small(c)
    grey = channels == 1
    canvas = 64 if grey else 128
    c.data.streams.train = ConfigDict(dict(source="photos", path="", split="pretrain", size=4096, share=1.0, ratio=1))
    c.evals.data = ConfigDict(dict(source="photos", path="", train="train", test="test", resize=32))
    c.data.channels = channels
    c.data.canvas = canvas
    c.data.contrast_normalise = grey
    c.data.mean, c.data.std = ((0.5,), (0.2,)) if grey else ((0.45, 0.42, 0.4), (0.25, 0.24, 0.25))
    c.backbone.update(dict(patch=4, width=128, depth=3, heads=4, drop_path=0.0))
    for name, side in (("global_1", 32), ("global_2", 32), ("local", 16)):
        box = 16 if name == "local" and grey else 32  # pixels of the canvas; a colour local view is half as sharp
        share = (box / canvas) ** 2
        view = augment(
            side, (share, share), ratio=(1.0, 1.0), flip=0.0, jitter=0.0 if grey else 0.8, blur=0.0, solarise=0.0,
            grey=0.0,
        )  # fmt: skip
        view.jitter.hue = 0.05
        c.method.augment[name] = view
    use_size(c, 32, 16)
    c.method.views.update({"globals": 2, "locals": 3})
    c.method.corruption.update(dict(ratio=0.3, foreign_probability=0.3, foreign_ratio=0.2))
    c.method.projector.hidden = 256
    c.method.prototypes.update(dict(cls=256, patch=128))
    c.method.loss["cls"] = 3.0
    c.method.momentum.end = 0.99
    c.optim.duration = 540.0 if grey else 680.0
    c.optim.batch_size = 32
    c.optim.learning_rate = 0.016
    c.optim.warmup = 20.0
    c.evals.knn.feature = c.evals.linear.feature = "last4_cls"  # [DINO, iBOT: linear for small ViTs]
    c.evals.knn.whiten = 0.05
    # Weaker ones fit the light of the left side; validation patches, of the same side, cannot tell. See docs/results.
    c.evals.linear.update(dict(l2_grid=(3e-3, 3e-2, 3e-1), max_iterations=1000))


def tiny(c):
    """The whole path in seconds; its scores mean nothing."""
    photos(c)
    c.data.streams.train.size = 128
    c.backbone.update(dict(patch=8, width=64, depth=1, heads=2))
    c.method.projector.update(dict(hidden=64, output=32))
    c.method.prototypes.update(dict(cls=16, patch=32))
    c.optim.duration = 8.0
    c.optim.warmup = 2.0
    c.optim.batch_size = 32
    c.evals.lowshot.draws = 10
    c.evals.linear.update(dict(l2_grid=(1e-4, 1e-2), max_iterations=50))
    c.evals.tsne_points = 100
    c.evals.pixel_side = 8
    c.evals.health.update(dict(images=200, views=3))
    c.evals.knn.whiten = 0.0
    c.evals.lowshot.feature = "last4_cls"  # as wide as the pixels: the compared features share compiled solvers
    c.evals.lowshot.kfold_from = 6
    c.method.views.locals = 0
    c.run.log_every = 2
    c.run.health_every = 4
    c.run.checkpoint_every = 4


def cifar10(c):
    """CIFAR-10 at 32 px, ViT-Ti/4, crops on the device."""
    c.data.streams.train = ConfigDict(dict(source="tfds", path="cifar10", split="pretrain", size=0, share=1.0, ratio=1))
    c.evals.data = ConfigDict(dict(source="tfds", path="cifar10", train="train", test="test", resize=32))
    c.data.mean, c.data.std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    c.data.crop = "auto"
    c.data.canvas = 32
    c.data.threads = 2
    use_backbone(c, "vit_ti4")
    use_size(c, 32, 16)
    c.method.views.locals = 4
    for name in ("global_1", "global_2", "local"):
        c.method.augment[name].blur.probability = 0.0  # sigma up to 2 erases a 32-pixel image
    c.method.projector.update(dict(norm="batch", shared=False))
    c.method.prototypes.update(dict(cls=1024, patch=1024))
    c.optim.duration = 300.0
    c.optim.batch_size = 512
    c.evals.every = 50.0
    c.evals.pixel_side = 32
    c.run.keep_host_memory = True


def folder(c, path, size=64, backbone="vit_micro8"):
    """Any folder of images; 64 px and a small network run on a laptop, size=224,backbone=vit_s16 wants a GPU."""
    small(c)
    patch = presets.known_vit(backbone)["patch"]
    c.data.streams.train = ConfigDict(dict(source="folder", path=path, split="pretrain", size=0, share=1.0, ratio=1))
    c.evals.data = ConfigDict(dict(source="folder", path=path, train="train", test="test", resize=size * 8 // 7))
    c.data.canvas = size * 2
    use_backbone(c, backbone)
    use_size(c, size, max(patch, size * 3 // 7 // patch * patch))
    c.method.views.update({"globals": 2, "locals": 4})
    c.method.corruption.update(dict(ratio=0.3, foreign_probability=0.3, foreign_ratio=0.2))
    c.optim.duration = 1000.0
    c.optim.batch_size = 64
    c.optim.learning_rate = 3e-3
    c.optim.warmup = 100.0


PRESETS = {
    "photos": lambda c: photos(c),
    "photos_rgb": lambda c: photos(c, channels=3),
    "tiny": tiny,
    "cifar10": cifar10,
    "imagenet": lambda c, backbone="vit_s16": use_backbone(c, backbone),
    "folder": folder,
}


def get_config(argument="photos"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
