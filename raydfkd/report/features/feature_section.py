"""The section that shows what the networks make of images: the teacher's features, and the planes of networks that have two."""

from __future__ import annotations

import numpy as np

from raydfkd.report import figures
from raydfkd.report.features.planes import PLANES_CAPTION, planes_figure, planes_of
from raydfkd.report.loading import RunData
from raydfkd.report.page_parts import LeftOut, Section
from raydfkd.report.pictures import figure_svg

_MOST_FEATURES = 3000


def features(run: RunData) -> Section:
    planes = planes_of(run)
    if not run.features and not planes:
        raise LeftOut("there is no analysis/features.npz; it is written at the end of a run")
    sets = {prefix: kept for prefix in ("synthetic", "real") if (kept := finite_features(run, prefix)) is not None}
    if not sets and not planes:
        raise LeftOut("analysis/features.npz has no finite features")
    wide = [figure_svg(planes_figure(planes, run.class_names(len(planes[0].bias))), "feature-planes")] if planes else []
    notes = [PLANES_CAPTION] if planes else []
    if "real" not in sets:
        notes.append("The run has no real images to compare with.")
    both = "both sets of images" if len(sets) == 2 else f"the {''.join(sets)} images"
    lead = f"The teacher's penultimate features on the first two principal components of {both}, coloured by class."
    return Section(lead=lead if sets else "", wide=wide, plots=_on_principal_axes(run, sets) if sets else [], notes=notes)


def _on_principal_axes(run: RunData, sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """A plot of each set of features [n,D] and classes [n], with the other set in grey."""
    centre, directions = figures.principal_axes(np.concatenate([vectors for vectors, _ in sets.values()]))
    flat = {prefix: ((vectors - centre) @ directions, classes) for prefix, (vectors, classes) in sets.items()}
    names = run.class_names(max(int(classes.max(initial=0)) for _, classes in flat.values()) + 1)
    plots = []
    for prefix, other, marker in (("synthetic", "real", "o"), ("real", "synthetic", "x")):
        if prefix in flat:
            title = f"{prefix.capitalize()} images" + (f" ({other} ones in grey)" if other in flat else "")
            behind = flat[other][0] if other in flat else None
            plots.append(figure_svg(figures.feature_map(*flat[prefix], names, title, marker, behind), f"features-{prefix}"))
    return plots


def finite_features(run: RunData, prefix: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Up to 3000 finite feature vectors [n,D], spread over all, and their classes [n]; None if there is none."""
    if f"{prefix}_features" not in run.features:
        return None
    features, classes = run.features[f"{prefix}_features"].astype(np.float64), run.features[f"{prefix}_class"].astype(np.int64)
    finite = np.flatnonzero(np.isfinite(features).all(axis=1) & (classes >= 0))
    if not len(finite):
        return None
    kept = finite[np.unique(np.linspace(0, len(finite) - 1, min(_MOST_FEATURES, len(finite))).astype(int))]
    return features[kept], classes[kept]
