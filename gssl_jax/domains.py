"""The 16 data sets of HPT (arXiv 2103.12718): what each should hold, pixel statistics, metric and origin.

`use` writes one of them into a recipe. Where the images lie the recipe's user says: a folder with lists (see
data/sources/lists.py), or for some a name of TFDS. Counts are those of the paper's lists, exact or about; classes, mean
and std those of its configurations. The grouping into domains is ours. Recipes reach this file as `presets.domains`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from gssl_jax.errors import UserError, unknown

TOLERANCE = 0.05  # share by which a count that is known only about may differ before a line says so


class Named(NamedTuple):
    """A data set of TFDS and its splits: as the paper's where they can be cut out of it, else the nearest."""

    path: str
    pretrain: str
    train: str
    val: str
    test: str


class Domain(NamedTuple):
    """What is known of a data set; mean and std in units of [0, 1], of each channel or of all.

    `classes` holds the count of the paper's configuration first, then others that are right too; `images` are those of
    train, val and test, to the image where `exact`; `metric` is `top1` (one class an image) or `auroc` (several
    labels).
    """

    title: str
    domain: str
    classes: tuple[int, ...]
    images: tuple[int, int, int]
    exact: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    metric: str
    origin: str
    tfds: Named | None = None
    note: str = ""

    def holds(self, split: str, source: str) -> int:
        """Images that `split` of a kind of source should hold, 0 for a split that is not of the paper."""
        if self.tfds is not None and source == "tfds":
            alias = {getattr(self.tfds, name): name for name in ("pretrain", "train", "val", "test")}
            split = alias[split] if split in alias else split
        train, val, test = self.images
        known = {"pretrain": train + val, "train": train, "val": val, "test": test}
        return known[split] if split in known else 0


SPLIT = "its lists by python -m gssl_jax.dataset split DIR"


def _domainnet(name: str, images: tuple[int, int, int], mean: Any, std: Any) -> Domain:
    title, domain = f"DomainNet {name}", "natural" if name == "real" else "illustrations"
    return Domain(
        title, domain, (345,), images, False, mean, std, "top1",
        "DomainNet (Peng et al. 2019) with its lists of train and test; val is a fifth of train",
        Named(f"domainnet/{name}", "train", "train[:80%]", "train[80%:]", "test"),
        "the counts of TFDS differ a little",
    )  # fmt: skip


_RESISC = ((0.368, 0.381, 0.3436), (0.2035, 0.1854, 0.1849))

DOMAINS: dict[str, Domain] = {
    "resisc": Domain(
        "NWPU-RESISC45", "aerial", (45,), (18_900, 6_300, 6_300), True, *_RESISC, "top1",
        f"NWPU-RESISC45 (Cheng et al. 2017); {SPLIT}",
        Named("resisc45", "train[:25200]", "train[:18900]", "train[18900:25200]", "train[25200:]"),
        "TFDS has one split of 31,500, cut here in its order; the paper's own draw is not published",
    ),
    "ucmerced": Domain(
        "UC Merced Land Use", "aerial", (21,), (1_260, 420, 420), True, (0.4842, 0.4901, 0.4505),
        (0.2180, 0.2021, 0.1958), "top1", f"UC Merced Land Use (Yang and Newsam 2010); {SPLIT}",
        Named("uc_merced", "train[:1680]", "train[:1260]", "train[1260:1680]", "train[1680:]"),
        "TFDS has one split of 2,100, cut here in its order; the paper's own draw is not published",
    ),
    "xview": Domain(
        "xView, crops of objects", "aerial", (36,), (39_000, 2_800, 2_800), False, *_RESISC, "auroc",
        "xView (Lam et al. 2018), xviewdataset.org",
        note="mean and std of the paper's configuration are a copy of RESISC's: measure your own",
    ),
    "bdd": Domain(
        "BDD100K, weather", "driving", (6,), (60_000, 10_000, 10_000), False, (0.2789, 0.2929, 0.2902),
        (0.2474, 0.2653, 0.2761), "top1", "BDD100K (Yu et al. 2020), images of 100K with their attribute weather",
    ),
    "viper": Domain(
        "VIPER", "driving", (23, 6), (13_300, 2_800, 4_900), False, (0.3485, 0.3422, 0.3395),
        (0.2449, 0.2408, 0.2390), "auroc", "VIPER (Richter et al. 2017), playing-for-benchmarks.org",
        note="23 classes in the paper's configuration, 6 in the script beside it",
    ),
    "flowers": Domain(
        "Oxford Flowers 102", "natural", (102,), (1_020, 1_020, 6_149), True, (0.4355, 0.3777, 0.2880),
        (0.2970, 0.2459, 0.2705), "top1", "Oxford Flowers 102 (Nilsback and Zisserman 2008) with its official split",
        Named("oxford_flowers102", "train+validation", "train", "validation", "test"),
    ),
    "chexpert": Domain(
        "CheXpert", "medical", (5,), (178_700, 44_600, 234), False, (0.5028,), (0.2919,), "auroc",
        "CheXpert (Irvin et al. 2019), stanfordmlgroup.github.io/competitions/chexpert; its valid is the test set here",
        note="an uncertain label is unknown: -1",
    ),
    "chest_xray_kids": Domain(
        "Chest X-ray of children, pneumonia", "medical", (10, 2, 3), (4_186, 1_046, 624), False, (0.4815,), (0.2377,),
        "top1", "Labeled chest X-ray images (Kermany et al. 2018, Mendeley Data) with its train and test",
        note="10 classes in the paper's configuration; the data set has 2, or 3 with the kind of pneumonia",
    ),
    "coco_2014": Domain(
        "COCO 2014", "natural", (80,), (82_700, 20_200, 20_200), False, (0.4702, 0.4470, 0.4076),
        (0.2785, 0.2740, 0.2889), "auroc", "COCO (Lin et al. 2014), cocodataset.org: its 80 categories as labels",
        note="val2014 halved into val and test, as the counts say",
    ),
    "pascal": Domain(
        "Pascal VOC", "natural", (20,), (13_200, 3_300, 4_900), False, (0.4511, 0.4292, 0.3967),
        (0.2764, 0.2729, 0.2849), "auroc", "Pascal VOC (Everingham et al. 2010): its 20 categories as labels",
        note="the counts are those of trainval of 2007 and 2012, and of test of 2007",
    ),
    "clipart": _domainnet(
        "clipart", (27_200, 6_800, 14_800), (0.7362, 0.7167, 0.6834), (0.3642, 0.3654, 0.3887)
    ),
    "infograph": _domainnet(
        "infograph", (29_600, 7_400, 16_100), (0.6888, 0.6970, 0.6648), (0.3331, 0.3094, 0.3281)
    ),
    "painting": _domainnet(
        "painting", (42_200, 10_500, 22_800), (0.5743, 0.5466, 0.5083), (0.3088, 0.3007, 0.3168)
    ),
    "quickdraw": _domainnet("quickdraw", (96_600, 24_100, 51_700), (0.9525,), (0.2128,)),
    "real": _domainnet("real", (98_000, 24_500, 52_700), (0.6059, 0.5890, 0.5558), (0.3344, 0.3279, 0.3493)),
    "sketch": _domainnet("sketch", (39_200, 9_800, 21_200), (0.8327, 0.8270, 0.8179), (0.2727, 0.2753, 0.2810)),
}  # fmt: skip
"""Name in the paper's code -> what is known; specifics that are known to be odd stand in `note`."""


def known(name: str) -> Domain:
    """The data set of that name; raises UserError for another one."""
    if name not in DOMAINS:
        raise unknown("data set of HPT", name, DOMAINS)
    return DOMAINS[name]


def use(c: ConfigDict, name: str, path: str, source: str = "lists") -> None:
    """Learns from and is judged on a data set of the table: changes `data.streams`, `mean`, `std`, `expect` and
    `evals.data` of a recipe.

    Args:
      c: a recipe; its first stream is the one to learn from.
      name: a key of `DOMAINS`.
      path: the folder with its lists or classes, or with `source` "tfds" "" for TFDS's own name of it.
      source: kind of the data source, `lists`, `tfds` or `folder`.

    Raises UserError for an unknown name, a missing path and a set that TFDS does not have in this form.
    """
    c.update(stage(c, name, path, source))
    path, _, train, test = _place(name, path, source)
    c.evals.data.update(dict(source=source, path=path, train=train, test=test))


def stage(c: ConfigDict, name: str, path: str, source: str = "lists") -> dict[str, Any]:
    """What a stage before the target changes to learn from a data set of the table, for `presets.hierarchy`; of `c`
    only `data.expect` is changed. Arguments and errors as for `use`."""
    path, pretrain, *_ = _place(name, path, source)
    c.data.expect[name] = ConfigDict(dict(source=source, path=path))
    stream = dict(source=source, path=path, split=pretrain)
    return {
        "data": {
            "streams": {next(iter(c.data.streams)): stream},
            "mean": DOMAINS[name].mean,
            "std": DOMAINS[name].std,
        }
    }


def _place(name: str, path: str, source: str) -> tuple[str, str, str, str]:
    """Path and the splits to pretrain, train and test on."""
    domain = known(name)
    if source != "tfds":
        if not path:
            raise UserError(f"{domain.title} needs a folder: give path=DIR. {how_to_get(name)}")
        return path, "pretrain", "train", "test"
    if domain.tfds is None:
        raise UserError(
            f"TFDS does not have {domain.title} as images with {'labels' if domain.metric == 'auroc' else 'a class'}: "
            f"give kind=lists,path=DIR. {how_to_get(name)}"
        )
    return path or domain.tfds.path, domain.tfds.pretrain, domain.tfds.train, domain.tfds.test


def how_to_get(name: str) -> str:
    """Where a data set is from and how it should lie, in two sentences."""
    domain = known(name)
    labels = f"{domain.classes[0]} columns of 0 and 1" if domain.metric == "auroc" else "the number of its class"
    words = f"Get {domain.origin}. A folder for kind=lists holds train.txt, val.txt and test.txt with lines "
    words += f"'relative/path {'0 1 ...' if domain.metric == 'auroc' else 'label'}' ({labels})"
    return words + (f"; or kind=tfds reads {domain.tfds.path}" if domain.tfds else "")
