"""A small run folder made by hand, and the pieces it is made of."""

import json

import numpy as np
import pytest


def entry(value, half, interval="t-draws", n=20, **protocol):
    """An entry of results.json: a fraction with a symmetric interval."""
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": n,
        "protocol": protocol,
        "interval": interval,
    }


@pytest.fixture
def make_results():
    """make_results(trained, untrained, pixels): each {key: value}, every interval +- 0.02; None drops a control."""

    def make(trained, untrained=None, pixels=None, half=0.02):
        def table(values):
            return None if values is None else {key: entry(value, half) for key, value in values.items()}

        run = {"config": {"seed": 0}, "seed": 3, "steps": 400, "seconds": 222.4, "images_per_second": 412.3,
               "parameters": 1803264, "device": "2 CPU cores", "versions": {"jax": "0.10.2"},
               "data": {"eval_test": {"images": 1140, "classes": 3}}}  # fmt: skip
        controls = {"untrained": table(untrained), "pixels": table(pixels)}
        return {"schema": 1, "eval": table(trained), "controls": controls, "run": run}

    return make


CONFIG = {
    "stages": ["target"],
    "data": {"streams": {"train": {"source": "photos", "path": "", "split": "pretrain", "size": 4096}},
             "image_size": 32, "channels": 1},
    "backbone": {"patch": 4, "width": 192},
    "method": {"name": "maskcluster", "prototypes": {"cls": 256, "patch": 512},
               "collapse": {"cls": "sinkhorn", "patch": "centring"},
               "temperature": {"teacher_end": 0.07}, "sinkhorn": {"eps": 0.05},
               "memax": {"weight": 1.0, "sharpen": 0.25}},
    "optim": {"learning_rate": 0.003, "duration": 400.0, "batch_size": 128},
    "evals": {"data": {"source": "photos", "path": "", "train": "train", "test": "test"}},
}  # fmt: skip


@pytest.fixture
def config():
    """A configuration with the names of the real one, to change at will."""
    return json.loads(json.dumps(CONFIG))


def metric_rows(steps=range(10, 410, 10), stage="target", **changes):
    """Healthy lines of metrics.jsonl; `changes` replaces values on every line, key with "__" for "/"."""
    rows = []
    for step in steps:
        row = {"stage": stage, "step": step, "train/loss": 9.0 - step / 100, "train/loss_cls": 5.0 - step / 200,
               "train/loss_patch": 4.0 - step / 200, "train/loss_reconstruction": 0.5, "train/learning_rate": 1e-3,
               "train/momentum": 0.99, "health/feature_std": 1.0, "health/rankme": 30.0}  # fmt: skip
        for level in ("cls", "patch"):
            row |= {f"health/target_entropy_{level}": 0.4, f"health/mean_target_entropy_{level}": 0.97,
                    f"health/prototypes_in_use_{level}": 0.8, f"health/agreement_{level}": 0.5}  # fmt: skip
        row |= {key.replace("__", "/"): value for key, value in changes.items()}
        rows.append(row)
    return rows


@pytest.fixture
def rows_of():
    """`metric_rows` as a fixture."""
    return metric_rows


@pytest.fixture
def labelled_results(make_results):
    """labelled_results(**values of eval keys, with "__" for "/") of a labelled method with three classes, chosen at
    step 300 of 400; None leaves an entry out."""

    def make(**changes):
        trained = {"accuracy/top1": 0.5, "accuracy/balanced": 0.5, "accuracy/head": 0.8, "accuracy/middle": 0.5,
                   "accuracy/tail": 0.2, "knn/top1": 0.45, "linear/top1": 0.48}  # fmt: skip
        last = {"last/accuracy/top1": 0.47, "last/accuracy/balanced": 0.47, "last/accuracy/tail": 0.1}
        trained |= last | {key.replace("__", "/"): value for key, value in changes.items()}
        results = make_results(
            {key: value for key, value in trained.items() if value is not None},
            {"knn/top1": 0.25, "linear/top1": 0.3}, {"knn/top1": 0.2, "linear/top1": 0.22},
        )  # fmt: skip
        own = {"per_class": {"cat": 0.8, "dog": 0.5, "hen": 0.2}, "train_images": [100, 40, 10]}
        for key in ("accuracy/top1", "last/accuracy/top1"):
            if key in results["eval"]:
                results["eval"][key]["protocol"] = dict(own)
        for entries in (results["eval"], *results["controls"].values()):
            for key in ("knn/top1", "linear/top1"):
                entries[key]["protocol"] = {"feature": "feat", "train_images": 150}
        results["run"]["selected_step"] = 300
        return results

    return make


@pytest.fixture
def gated_config(config):
    """The configuration of a labelled method with a gate."""
    subset = {"kind": "long_tail", "profile": "exponential", "factor": 0.1, "count": 0, "share": 1.0}
    gate = {"mode": "learned", "formula": "softmax_of_mean", "chance_normalised": False, "entropy_weight": 0.0,
            "load_balance_weight": 0.0, "momentum": 0.99, "temperature": 0.1}  # fmt: skip
    config["data"] |= {"validation": {"per_class": 25, "share": 0.1}}
    config["data"]["streams"]["train"]["subset"] = subset
    config["backbone"] = {"kind": "resnet", "name": "resnet32"}
    config["method"] = {
        "name": "gated", "pretexts": {"names": ["lorot_e", "flip"], "weight": 0.1}, "gate": gate,
        "loss": {"kind": "ldam", "margin": 0.5, "scale": 30.0, "gamma": 2.0, "reweighting": "drw", "drw_start": 320.0},
        "attack": {"steps": 0, "epsilon": 8 / 255, "step_size": 2 / 255},
    }  # fmt: skip
    config["optim"]["unit"] = "step"
    return config


def gated_rows(steps=range(10, 410, 10), stage="target", **changes):
    """Lines of metrics.jsonl of a labelled method with two pretexts; `changes` as in `metric_rows`."""
    rows = []
    for step in steps:
        row = {"stage": stage, "step": step, "train/loss": 2.1, "train/loss_supervised": 2.0, "train/accuracy": 0.4,
               "train/learning_rate": 0.1, "gate/entropy": 0.9, "gate/sample_entropy": 0.9, "gate/largest": 0.6,
               "health/feature_std": 0.1, "health/rankme": 30.0}  # fmt: skip
        for name, loss, weight in (("lorot_e", 2.5, 0.4), ("flip", 0.6, 0.6)):
            row |= {f"train/loss_{name}": loss, f"train/accuracy_{name}": 0.5, f"gate/weight_{name}": weight,
                    f"gate/alignment_{name}": 0.1 * (-1) ** (step // 10)}  # fmt: skip
        row |= {key.replace("__", "/"): value for key, value in changes.items()}
        rows.append({key: value for key, value in row.items() if value is not None})
        if step % 100 == 0:
            rows.append({"stage": stage, "step": step, "eval/validation": step / 1000})
    return rows


@pytest.fixture
def gated_rows_of():
    """`gated_rows` as a fixture."""
    return gated_rows


@pytest.fixture
def make_folder(tmp_path, make_results, config):
    """make_folder(results=, rows=, config=) writes a run folder; None leaves the file out."""
    good = make_results(
        {"knn/top1": 0.61, "linear/top1": 0.63, "lowshot_1/top1": 0.32, "lowshot_2/top1": 0.40, "lowshot_5/top1": 0.52},
        {"knn/top1": 0.30, "linear/top1": 0.37, "lowshot_1/top1": 0.15, "lowshot_2/top1": 0.20, "lowshot_5/top1": 0.28},
        {"knn/top1": 0.19, "linear/top1": 0.20, "lowshot_1/top1": 0.09, "lowshot_2/top1": 0.12, "lowshot_5/top1": 0.16},
    )

    def make(results=good, rows=None, settings=config):
        rows = metric_rows() if rows is None else rows
        if settings is not None:
            (tmp_path / "config.json").write_text(json.dumps(settings))
        if results is not None:
            (tmp_path / "results.json").write_text(json.dumps(results))
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return make


@pytest.fixture
def make_pictures():
    """make_pictures(channels): every kind of picture, random but of the right forms, for three classes; `evidence` of a
    classifier where asked for."""

    def make(channels=1, number=4, side=16, heads=3, neighbours=5, evidence=False):
        rng = np.random.default_rng(0)

        def images(*shape):
            return rng.random((*shape, side, side, channels), dtype=np.float32)

        labels = np.arange(number) % 3
        pictures = {
            "reconstruction": {kind: images(number) for kind in ("input", "corrupted", "reconstructed")},
            "clusters": {"images": images(number), "maps": rng.integers(0, 8, (number, 4, 4))},
            "pca": {"images": images(number), "maps": rng.random((number, 4, 4, 3))},
            "attention": {"images": images(number), "maps": rng.random((number, heads, 4, 4))},
            "neighbours": {"queries": images(number), "neighbours": images(number, neighbours), "query_labels": labels,
                           "neighbour_labels": np.repeat(labels[:, None], neighbours, axis=1)},
            "tsne": {"points": rng.normal(size=(60, 2)), "labels": np.arange(60) % 3},
        }  # fmt: skip
        if evidence:
            maps = rng.random((number, side, side))
            pictures["gradcam"] = {"images": images(number), "maps": maps, "predicted": labels % 2, "labels": labels}
        return pictures

    return make
