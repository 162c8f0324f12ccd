"""The group `evals` of a configuration: what a backbone is judged on, and by which protocols."""

from __future__ import annotations

from ml_collections import ConfigDict


def evaluation(source: str, path: str, train: str, test: str, resize: int) -> ConfigDict:
    """The group `evals` as most recipes want it: what a backbone is judged on, and by which protocols.

    Args:
      source: kind of the data set, see `data/sources`.
      path: its name or folder.
      train: its split with the labelled images; `stream`: the labelled images that were trained on.
      test: its split to test on.
      resize: the shorter side in pixels before the centre crop.
    """
    e = ConfigDict()
    e.data = ConfigDict(dict(source=source, path=path, train=train, test=test, resize=resize))
    e.every = 0.0  # in optim.unit; 0 = at the end only
    e.which = "teacher"  # teacher | student
    e.batch_size = 256
    e.knn = ConfigDict(dict(k=20, temperature=0.07, feature="feat", whiten=0.0))  # [DINO]; whiten: floor, 0.0 = off
    e.linear = ConfigDict(
        dict(
            feature="feat",
            l2_grid=(1e-4, 1e-3, 1e-2, 1e-1),  # of mean CE + l2/2 |W|^2
            validation=0.2,  # share of every class that chooses among them
            train_images=0,  # at most so many, equally of every class, where the logits would not fit; 0 = all
            max_iterations=500,
            tolerance=1e-4,  # largest gradient norm over the classes
        )
    )
    e.lowshot = ConfigDict(
        dict(
            shots=(1, 2, 5),  # labelled images per class
            draws=20,
            shares=(),  # of all labels, such as (0.01, 0.1)
            share_draws=3,
            lists=(),  # text files of image names; those of one name in several folders are draws of one entry
            feature="feat",
            l2=0.075,
            kfold_from=5,
            folds=5,
            l2_grid=(0.0025, 0.025, 0.25, 2.5),
            msn_transductive=False,
            max_iterations=300,  # [MSN]
            tolerance=1e-4,  # largest gradient norm over the classes
        )  # [MSN: lambda / n, lambda .0025-.075]
    )
    e.multilabel = ConfigDict(
        dict(
            average_precision="exact",  # exact | eleven_point, as PASCAL VOC until 2009
            threshold="half",  # half: probability .5 | validation: by class, the best F1; of F1 alone
        )
    )
    e.statistics = "own"  # own | refreshed: batch norm's of the evaluation's training images, ResNets only
    e.sgd_linear = ConfigDict(
        dict(
            steps=0,  # iterations, 5000 in the paper; 0 = off
            batch_size=512,
            learning_rate=30.0,  # for features at the scale of MoCo's
            momentum=0.9,
            milestones=(1651, 3333),
            factor=0.1,
            every=100,  # iterations between validations
            validation=0.2,  # share of the training images that chooses the iteration
            scale=(0.08, 1.0),
            flip=0.5,
            seeds=3,  # repeats
        )
    )  # [HPT], the feature of evals.linear
    e.finetune = ConfigDict(
        dict(
            labels=(),  # numbers of labelled images, at least one per class, 1000 in the paper; 0 = all; () = off
            shares=(),  # shares of every class, 0.01 and 0.1 are usual; () = off
            trains="all",  # all | last_k | norm | heads; heads: the backbone in eval mode
            last_blocks=1,  # of last_k
            start="random",  # random | linear: the head begins as the regression on frozen features
            optimiser="sgd",  # sgd | adamw
            schedule="steps",  # steps | cosine
            warmup=0.0,  # share of the steps
            learning_rates=(0.01, 0.001),
            steps=2500,  # the first schedule; 0 = off
            milestones=(833, 1667),
            epochs=0,  # the second one, 90 in the paper; 0 = off
            epoch_milestones=(30, 60),
            factor=0.1,
            drops="intended",  # intended | code: in the authors' code drops in steps come at a quarter of their place
            momentum=0.9,  # of SGD, and beta 1 of AdamW
            beta2=0.999,  # of AdamW
            weight_decay=0.0,  # of matrices and kernels
            layer_decay=1.0,  # of the rate from a layer to the one before it; 1.0 = off
            label_smoothing=0.0,
            drop_path=-1.0,  # rate of the last block of a ViT; -1.0 = the backbone's own
            head_rate=100.0,  # of the layer's learning rate over the backbone's
            batch_size=256,
            scale=(0.08, 1.0),
            flip=0.5,
            validation=0.2,  # share of the training images, none of them labelled, that chooses from the grid
            every=0,  # steps between validations; 0 = at the end only
            draws=1,  # of the labelled images
        )
    )  # [HPT], the feature of evals.linear
    e.segmentation = ConfigDict(
        dict(
            feature="map",  # [B, h, w, D]
            images=2000,  # training images whose patches are held in memory, drawn by the seed
            patches=20_000,  # at most so many of theirs for k-NN and for each linear fit
            shots=(1, 5),  # images for each class that show it; () = off
            draws=5,
        )
    )  # where the images have masks: k-NN and linear head at every evaluation, the decoder at the end
    e.segmentation.knn = ConfigDict(dict(k=20, temperature=0.07, whiten=0.0))
    e.segmentation.linear = ConfigDict(
        dict(
            l2_grid=(1e-4, 1e-3, 1e-2, 1e-1),
            validation=0.2,  # share of the images that chooses among them
            shots_l2=1e-2,  # of a few images, which have none to choose by
            max_iterations=300,
            tolerance=1e-3,  # largest gradient norm over the classes
        )
    )
    e.segmentation.decoder = ConfigDict(
        dict(
            steps=0,  # 0 = off
            batch_size=16,
            width=64,  # channels of the decoder
            learning_rates=(1e-3, 3e-4),  # validation images choose
            layer_decay=0.65,  # of the rate, from block to block towards the input [BEiT, iBOT]
            weight_decay=0.05,
            warmup=0.1,  # share of the steps
            frozen=False,  # the decoder alone learns
            shots=(0,),  # images for each class that show it, 0 = all but those for validation
            draws=1,
            validation=0.2,  # share of the images, none of them learned from, that chooses rate and step
            every=0,  # steps between validations; 0 = at the end only
            scale=(0.5, 1.0),
            flip=0.5,
        )
    )
    e.robustness = ConfigDict(
        dict(
            corruptions=(),  # names of ops/corruptions.py; ("all",) = its fourteen; () = off
            severities=(1, 2, 3, 4, 5),
            linf=(),  # PGD: largest change of a pixel value in [0, 1], 4/255 is 0.0157; () = off
            l2=(),  # PGD: largest change of an image as a vector, 0.5; () = off
            steps=20,  # of PGD
            step=2.5,  # length of a step, of epsilon / steps (arXiv 1706.06083 takes 2.5 on MNIST and CIFAR)
            images=2000,  # test images under corruptions and attacks, at most; 0 = all
            shift=(),  # (source, path, split) of other domains with the same classes, by name; () = off
        )
    )  # of the linear classifier, the feature of evals.linear
    e.bootstrap = ConfigDict(dict(resamples=1000))
    e.health = ConfigDict(
        dict(
            images=1000,  # training images of the evaluation for the label-free scores at the end; 0 = off
            views=8,  # of each; below 2 no alignment and no LiDAR
            feature="feat",
            augment=dict(  # of the views; the same for every method, so that their scores compare
                scale=(0.25, 1.0),
                ratio=(3 / 4, 4 / 3),
                interpolation="bicubic",
                flip=0.5,
                jitter=dict(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1),
                grey=0.2,
                blur=dict(probability=0.0, sigma=(0.1, 2.0)),  # off: what a sigma erases depends on the size
                solarise=dict(probability=0.0, threshold=0.5),
            ),
        )
    )
    e.tsne_points = 1000  # test images in the t-SNE picture
    e.picture_images = 2000  # images of a split that neighbours and t-SNE choose from
    e.pixel_side = 8  # pixels a side for the raw-pixel control: a million images of 32 would not fit a device
    return e


def vit_finetuning(c: ConfigDict) -> None:
    """Fine-tuning as it is usual for vision transformers, in place of HPT's: on all labels, and on 1 and 10 % of each
    class.

    AdamW, cosine, layer-wise decay, decay, smoothing and drop path are those of MAE for a ViT-B (arXiv 2111.06377,
    table 9), its rate 1e-3 for batches of 256 with one below and one above it to choose from; its published code has
    5e-4 and a layer decay of .65. It mixes images (mixup, CutMix) and draws RandAugment besides; that is left out here.
    """
    c.evals.finetune.update(
        dict(
            labels=(0,),
            shares=(0.01, 0.1),
            optimiser="adamw",
            schedule="cosine",
            learning_rates=(2.5e-4, 1e-3, 4e-3),
            steps=0,
            epochs=100,
            warmup=0.05,
            weight_decay=0.05,
            layer_decay=0.75,
            label_smoothing=0.1,
            drop_path=0.1,
            head_rate=1.0,
        )
    )


def labelled_evaluation(source: str, path: str, test: str, resize: int) -> ConfigDict:
    """`evaluation` for a method that learns from labels: its images to train on, no shots, attacks by name."""
    e = evaluation(source, path, "stream", test, resize)
    e.attacks = ConfigDict()  # name -> epsilon, step_size, steps; of the class loss alone, with a random start
    e.linear.l2_grid = (1e-3, 1e-2, 1e-1)
    e.lowshot.shots = ()
    e.pixel_side = 32
    return e


def judged_images() -> ConfigDict:
    """The group `data` for images that are judged and not learned from; size, channels, mean and std are those of the
    backbone that looks at them, these where it says nothing."""
    d = ConfigDict()
    d.image_size = 0  # 0 = nothing says it
    d.channels = 3
    d.contrast_normalise = False
    d.mean = (0.485, 0.456, 0.406)
    d.std = (0.229, 0.224, 0.225)
    d.seed = 0
    d.canvas = 0
    d.max_broken = 0.01  # share of unreadable images that stops the judging
    d.threads = 8
    d.holdout = 0.2  # class folders without a test folder: share held out
    d.resident_mib = 1024  # images up to this much are kept in memory
    d.expect = ConfigDict()
    return d
