"""Folders of studies that nobody ran: cells with the scores, alarms and ends that a test asks for."""

import json

from gssl_jax.cli import alone
from gssl_jax.runs.study import Cell, Folder
from tests.report.conftest import entry


def study_config(methods, seeds=(0, 1, 2), measures=("knn/top1", "lowshot_5/top1"), **report):
    """The configuration of configs/study.py with `methods` {name: (family, *controls)}."""
    config = alone("study", "configs/study.py:tiny")
    with config.unlocked():
        config.methods = {name: {"family": family, "controls": c or ("",)} for name, (family, *c) in methods.items()}
        config.seeds = seeds
        config.report.measures = measures
        config.report.update(report)
        config.report.method = report.get("method", next(iter(methods)))
        config.budget.reference = next(iter(methods))
    return config.lock()


def put(folder, cell, scores, alarm="", rows=(), health=None, skipped=0, seconds=120.0, judged=None):
    """A finished cell: `scores` {measure: fraction}, `rows` of metrics.jsonl beside one alarm."""
    path = folder.run(cell)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"method": {"name": cell.method}}))
    logged = [*rows, *([{"stage": "target", "step": 40, "alarm": alarm}] if alarm else [])]
    (path / "metrics.jsonl").write_text("".join(json.dumps({"stage": "target"} | row) + "\n" for row in logged))
    run = {"steps": 300, "skipped_steps": skipped, "seconds": 100.0, "device": "2 CPU cores", "versions": {"jax": "1"}}
    entries = {key: entry(value, 0.02, draws=20) for key, value in scores.items()}
    controls = {"untrained": {key: entry(0.2, 0.02) for key in scores}, "pixels": None}
    results = {"eval": entries, "controls": controls, "run": run} | ({"health": {"trained": health}} if health else {})
    (path / "results.json").write_text(json.dumps(results))
    (path / "report.html").write_text("")
    folder.note(cell, 0, seconds, "", False)
    for name, found in (judged or {}).items():
        own = folder.judged(cell, name)
        own.mkdir(parents=True)
        (own / "results.json").write_text(json.dumps({"eval": {k: entry(v, 0.02) for k, v in found.items()}}))


def filled(path, config, value, **options):
    """A study's folder, every cell finished with `value(cell, measure)`."""
    folder = Folder(path)
    folder.claim(config)
    for seed in config.seeds:
        for name, method in config.methods.items():
            for controls in method.controls:
                cell = Cell(name, controls, seed)
                own = {key: given(cell) if callable(given) else given for key, given in options.items()}
                put(folder, cell, {key: value(cell, key) for key in config.report.measures}, **own)
    return folder
