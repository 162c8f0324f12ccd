"""The study: one network, one augmentation and one budget for every objective, judged by one suite, over seeds.

    python -m gssl_jax.study --config=configs/study.py[:preset] [--workdir=DIR] [--dry-run] [--config.<knob>=<value>]

presets
    photos  (default) the embedded photographs, grey: every method with its own collapse control, MaskCluster with
            every pair of controls, 3 seeds, equal compute; 91 minutes on 2 CPU cores, docs/results/study.md
    full    the full grid, `none` and the longer training included, for a GPU; images=photos_rgb, cifar10 or another
            preset of configs/objectives.py
    tiny    MaskCluster with two pairs of controls, 2 seeds, a few steps: does everything run?
    folder  path=DIR: your own images in class folders; size=PIXELS

A cell is one method with its controls and one seed: a run of configs/objectives.py in a folder of its own. The same
command goes on where it stopped. What decides a method's numbers stands in configs/objectives.py; what a study changes
in all of them stands below in `cell`.
"""

from ml_collections import ConfigDict

from gssl_jax import presets

CONTROLS = ("sinkhorn", "memax", "centring")


def method(family, *controls):
    """A method of a family with its controls, the one it is known with first: `cls/patch`, `cls` alone, or none."""
    return ConfigDict(dict(family=family, controls=controls or ("",)))


def pairs(names):
    """Every pair of a class and a patch control."""
    return tuple(f"{one}/{other}" for one in names for other in names)


def base():
    """Every method with the control it is known with, on the photographs."""
    c = ConfigDict()
    c.recipe = presets.beside(__file__, "objectives")
    c.preset = "photos"  # of the recipe, which has the option method=NAME
    c.options = ""  # further options of the preset, key=value[,key=value]
    c.seeds = (0, 1, 2)  # of the initial network and every draw; methods share them

    c.methods = m = ConfigDict()
    m.simclr = method("contrastive")
    m.moco_v3 = method("contrastive")
    m.dino = method("clustering", "centring")
    m.msn = method("clustering", "memax")
    m.swav = method("clustering", "sinkhorn")
    m.mae = method("masked")
    m.simmim = method("masked")
    m.ibot = method("joint", "centring/centring")
    m.maskcluster = method("joint", *pairs(CONTROLS), "none/none")
    m.supervised = method("supervised")

    c.budget = ConfigDict(
        dict(
            kind="flops",  # flops: as many steps as cost what those of `reference` do | steps: the same number
            reference="maskcluster",
            duration=0.0,  # of the reference, in the recipe's optim.unit; 0.0 = the recipe's own
        )
    )

    c.cell = ConfigDict()  # what the recipe is changed by in every cell, by group
    c.cell_of = ConfigDict()  # method -> what its cells are changed by beside that

    c.judged = ConfigDict()  # name -> options of python -m gssl_jax.evaluate, for every cell after its run

    c.jobs = 1  # cells at a time, each on cores of its own; a GPU takes one
    c.limit = 0.0  # minutes of one start, after which no cell is begun; 0.0 = none
    c.overhead = 60.0  # seconds of a cell beside its steps, until a finished cell tells: start, compilation, scores

    c.report = ConfigDict(
        dict(
            measures=("knn/top1", "linear/top1", "lowshot_1/top1", "lowshot_2/top1", "lowshot_5/top1"),
            headline="lowshot_5/top1",
            method="maskcluster",  # does it, with its first controls, beat
            families=("contrastive", "clustering", "masked", "joint", "supervised"),  # in the order of the tables
            against=("contrastive", "clustering", "masked"),  # the best of each of these families?
        )
    )
    return c


def mosaics(c, options):
    """Judges every cell on pictures pieced together from the photographs too: several labels an image, and masks."""
    c.judged.mosaics = f"--data=mosaics --evals=linear,segmentation{options}"
    c.report.measures += (
        *("mosaics/linear/map", "mosaics/linear/auroc"),
        *("mosaics/segment_5_linear/miou", "mosaics/segment_linear/miou"),
    )


def photos(c):
    """54 cells of about 3 minutes on a core, and three more that should collapse.

    Every method was tried with two rates or more of .004, .008, .016 and .032 on a seed that is not among these, see
    docs/results; the recipe's is .016.
    """
    c.budget.duration = 130.0
    c.cell.evals = ConfigDict(dict(tsne_points=200, health=dict(images=250)))
    c.cell.run = ConfigDict(dict(tensorboard=False))
    for name in ("simclr", "moco_v3", "swav", "simmim"):
        c.cell_of[name] = ConfigDict(dict(optim=dict(learning_rate=0.008)))
    mosaics(c, "")
    c.jobs = 2
    c.limit = 100.0
    c.overhead = 80.0


def full(c, images="photos_rgb"):
    """All controls at both levels wherever there is a level."""
    c.preset = images
    if images.startswith("photos"):
        mosaics(c, "")
    every = (*CONTROLS, "none")
    for name in ("dino", "msn", "swav"):
        own = c.methods[name].controls
        c.methods[name].controls = (*own, *(one for one in every if one not in own))
    c.methods.ibot.controls = ("centring/centring", *(one for one in pairs(every) if one != "centring/centring"))
    c.methods.maskcluster.controls = pairs(every)
    c.seeds = (0, 1, 2, 3, 4)


def tiny(c):
    """Its scores mean nothing."""
    c.preset = "tiny"
    c.methods = ConfigDict(dict(maskcluster=method("joint", "sinkhorn/sinkhorn", "none/none")))
    c.seeds = (0, 1)
    c.cell.run = ConfigDict(dict(tensorboard=False))
    fewer = ("linear.max_iterations=50", "segmentation.images=50", "segmentation.patches=500", "segmentation.draws=2")
    mosaics(c, "".join(f" --evals.{one}" for one in fewer))
    c.overhead = 30.0


def folder(c, path, size=64):
    """Your own images; without class folders there is health alone to compare."""
    c.preset = "folder"
    c.options = f"path={path},size={size}"


PRESETS = {"photos": photos, "full": full, "tiny": tiny, "folder": folder}


def get_config(argument="photos"):
    """The configuration of a preset: `name[,key=value ...]`."""
    return presets.choose(argument, PRESETS, base)
