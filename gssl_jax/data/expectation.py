"""What a recipe expects of its data sets, `data.expect`, against what is found: see gssl_jax/domains.py.

`data.expect.<name>` holds source and path; wherever a stage opens the same source and path, the facts of that data set
apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gssl_jax import domains
from gssl_jax.data import sources
from gssl_jax.data.sources import Source
from gssl_jax.errors import UserError


def expected(settings: Any, data: Any) -> str:
    """Name of the data set of `domains` that `settings` (source and path) should open, "" for none."""
    place = (settings.source, settings.path)
    return next((name for name, wanted in data.expect.items() if (wanted.source, wanted.path) == place), "")


def open_source(settings: Any, split: str, data: Any) -> Source:
    """As `sources.open_source`, but an error says how to get the data set that was expected.

    Raises UserError, beside what the source refuses, for a labelled source with another number of classes or with one
    class an image in place of several labels, or the other way round.
    """
    name = expected(settings, data)
    if not name:
        return sources.open_source(settings, split, data)
    domain = domains.known(name)
    try:
        source = sources.open_source(settings, split, data)
    except UserError as problem:
        raise UserError(f"{domain.title} ({name}): {problem}. {domains.how_to_get(name)}") from problem
    if not source.classes:
        return source
    if source.multilabel != (domain.metric == "auroc"):
        found, wanted = ("several labels", "one class") if source.multilabel else ("one class", "several labels")
        raise UserError(
            f"{domain.title} ({name}) has {wanted} an image and {source.name} {found}: check {settings.path}. "
            f"{domains.how_to_get(name)}"
        )
    if len(source.classes) not in domain.classes:
        wanted = " or ".join(str(count) for count in domain.classes)
        raise UserError(
            f"{domain.title} ({name}) has {wanted} classes and {source.name} {len(source.classes)}: check "
            f"{settings.path}. {domains.how_to_get(name)}"
        )
    return source


def differences(settings: Any, split: str, data: Any, source: Source) -> tuple[str, ...]:
    """A line where a whole split holds another number of images than it should; counts known only about may differ by
    `domains.TOLERANCE`."""
    name = expected(settings, data)
    part = ("size" in settings and settings.size) or ("share" in settings and settings.share < 1.0)
    if not name or part:
        return ()
    domain = domains.known(name)
    wanted = domain.holds(split, settings.source)
    if not wanted or abs(len(source) - wanted) <= (0 if domain.exact else domains.TOLERANCE * wanted):
        return ()
    about = "" if domain.exact else "about "
    return (f"{source.name} holds {len(source):,} images, HPT has {about}{wanted:,} of {domain.title} in {split}",)


def all_differences(config: Any, streams: Mapping[str, Source], train: Source, test: Source) -> tuple[str, ...]:
    """The lines of `differences` for whole training streams and the two sets of the evaluation, each once."""
    judged = config.evals.data
    opened = [(config.data.streams[name], config.data.streams[name].split, source) for name, source in streams.items()]
    opened += [(judged, judged.train, train), (judged, judged.test, test)]
    found = [differences(settings, split, config.data, source) for settings, split, source in opened]
    return tuple(dict.fromkeys(line for lines in found for line in lines))
