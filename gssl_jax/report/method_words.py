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
LOSS_OF = {
    "moco": "Contrastive loss. It is small while the queue still holds noise, and rises as real keys take its place: "
    "that is no fault. Later it should fall slowly; how good the backbone is, only the scores tell.",
    "byol": "Distance of the prediction from the teacher's view, both ways: 0 where they agree, 4 where they have "
    "nothing in common. It need not fall far: near 0 from early on can mean that all targets are alike, so look at "
    "their spread.",
    "simclr": "Contrastive loss: ln of all other views of a batch where nothing is learned, so another batch size is "
    "another scale. It should fall slowly; how good the backbone is, only the scores tell.",
    "moco_v3": "Contrastive loss of both directions: 4 T ln of the batch where nothing is learned. It may rise for a "
    "while as the keys get better; how good the backbone is, only the scores tell.",
    "mae": "Squared error of the hidden patches. With targets by their own mean and deviation it is 1 where nothing is "
    "known of a patch, and it stays not far below: fine grain cannot be guessed.",
    "simmim": "Distance from the hidden pixels. It falls fast to what the surroundings tell and then slowly.",
}
"""How to read the loss of a method for which a falling line is not the rule."""
