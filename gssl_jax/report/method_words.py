"""The methods by name, in words: in a sentence, in a heading, and which of them learn from labels."""

METHODS = {
    "maskcluster": "clusters of masked images by student and teacher, without labels (MaskCluster)",
    "moco": "contrast with a queue of keys, without labels (MoCo v2)",
    "byol": "prediction of a teacher's view, without labels and without negatives (BYOL)",
    "simclr": "contrast of the views of a batch, without labels (SimCLR)",
    "moco_v3": "contrast with the keys of a slower network in the batch, without labels (MoCo v3)",
    "mae": "left-out patches rebuilt by a decoder, without labels (MAE)",
    "simmim": "hidden patches rebuilt by a linear head, without labels (SimMIM)",
    "dino": "clusters of views by student and teacher, without labels (DINO)",
    "ibot": "clusters of views and of hidden patches by student and teacher, without labels (iBOT)",
    "msn": "clusters of views with patches left out, by student and teacher, without labels (MSN)",
    "swav": "swapped prediction of the clusters of views, without labels and without a teacher (SwAV)",
    "supervised": "supervised training on the labels alone",
    "gated": "supervised training with gated pretext tasks (G-SSL)",
    "fixmatch": "semi-supervised training with gated pretext tasks (FixMatch with G-SSL)",
}
SHORT_METHODS = {
    "maskcluster": "MaskCluster",
    "moco": "MoCo v2",
    "byol": "BYOL",
    "simclr": "SimCLR",
    "moco_v3": "MoCo v3",
    "mae": "MAE",
    "simmim": "SimMIM",
    "dino": "DINO",
    "ibot": "iBOT",
    "msn": "MSN",
    "swav": "SwAV",
    "supervised": "Supervised",
    "gated": "G-SSL",
    "fixmatch": "FixMatch with G-SSL",
}
WITH_LABELS = ("gated", "fixmatch", "supervised")
