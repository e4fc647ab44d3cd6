"""The report of a sweep as a single HTML file: its trials side by side, and what their settings did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raydfkd.report.html import KeyFigure, render, write_page
from raydfkd.report.page_parts import Section, Table
from raydfkd.report.pictures import figure_svg
from raydfkd.report.result_rows import format_duration
from raydfkd.report.sweep import sweep_figures
from raydfkd.report.sweep.setting_importance import GROUPS, LEAST_TRIALS, RANKS, Importance, importances
from raydfkd.report.sweep.sweep_words import figure_text, settings_text, short_names, value_text
from raydfkd.sweep_dir import SweepDir, Trial, best_of

MOST_PLOTTED_KEYS = 12


def write_sweep_report(path: str | Path) -> Path:
    """Renders the sweep at ``path``, finished or not, as its sweep.html, and returns that file's path.

    Raises:
        RunDirError: there is no sweep, or the report cannot be written there.
    """
    folder = SweepDir.open(path)
    manifest, trials = folder.manifest(), folder.trials()
    objective = dict(manifest.get("objective", {}))
    mode, label = str(objective.get("mode", "max")), str(objective.get("label", "objective"))
    best = best_of(trials, mode)
    measured = [trial for trial in trials if trial.objective is not None]
    sections = [("outcome", "Trials", _table_section(trials, best, mode, label))]
    if measured:
        sections.append(("settings", "Settings", _settings_section(measured, label)))
        curves = sweep_figures.learning_curves(measured, None if best is None else best.name, label)
        sections.append(("curves", "Learning curves", Section(plots=[figure_svg(curves, "curves")])))
    if copied := _copies(trials):
        sections.append(("copies", "Copies", copied))
    if failed := [trial for trial in trials if trial.error]:
        table = Table(("trial", "settings", "error"), [(t.name, settings_text(t.settings), str(t.error)) for t in failed])
        sections.append(("errors", "Errors", Section(lead="Trials that failed; the sweep continued.", tables=[table])))
    if best is not None and folder.best_path.is_file():
        code = folder.best_path.read_text(encoding="utf-8")
        sections.append(("best", "The best experiment", Section(lead=f"best.yaml: raydfkd run {folder.best_path}", code=code)))
    page = render(
        "sectioned.html.j2",
        verb="sweep",
        name=folder.path.resolve().name,
        title=f"Sweep {folder.path.resolve().name}",
        state=str(manifest.get("state", "running")),
        facts=_facts(manifest, trials),
        measured_on=str(objective.get("measured_on", "")),
        headline=_headline(trials, best, label),
        sections=sections,
    )
    return write_page(folder.report_path, page)


def _facts(manifest: dict[str, Any], trials: list[Trial]) -> list[str]:
    facts = [f"search {manifest.get('search')}", f"scheduler {manifest.get('scheduler')}"]
    facts.append(f"{len(trials)} of {manifest.get('num_trials')} trials started")
    if manifest.get("concurrent"):
        facts.append(f"{manifest['concurrent']} at once")
    if manifest.get("elapsed_s"):
        facts.append(format_duration(manifest["elapsed_s"]))
    return facts


def _headline(trials: list[Trial], best: Trial | None, label: str) -> list[KeyFigure]:
    counts = [("finished", "ran to the end"), ("stopped", "stopped early"), ("failed", "the sweep continued")]
    figures = [KeyFigure(state, str(sum(t.state == state for t in trials)), text) for state, text in counts]
    if best is not None:
        return [KeyFigure(label, figure_text(best.objective), f"best, trial {best.name}", "last"), *figures]
    return figures


def _table_section(trials: list[Trial], best: Trial | None, mode: str, label: str) -> Section:
    sign = 1 if mode == "min" else -1
    ordered = sorted(trials, key=lambda t: (t.objective is None, sign * (t.objective or 0.0), t.name))
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))
    rows = [
        (
            f"{trial.name} (best)" if best is not None and trial.name == best.name else trial.name,
            trial.state,
            figure_text(trial.objective),
            f"{trial.last_step:,}",
            format_duration(trial.time_s),
            *(value_text(trial.settings.get(key, "")) for key in keys),
        )
        for trial in ordered
    ]
    names = short_names(keys)
    headers = ("trial", "state", label, "student steps", "time", *(names[key] for key in keys))
    lead = "Best first. Trials that stopped early were measured after fewer steps. Each folder in trials/ is a run directory."
    return Section(lead=lead, tables=[Table(headers, rows)] if rows else [])


def _settings_section(measured: list[Trial], label: str) -> Section:
    wide = [figure_svg(sweep_figures.parallel_coordinates(measured, label), "parallel")]
    plots: list[str] = []
    step, values = _at_common_step(measured)
    found: list[Importance] = importances([trial.settings for trial in measured], values)
    notes = []
    if found:
        plots.append(figure_svg(sweep_figures.importance_bars(found), "importance"))
        at = "at their last measurement" if step is None else f"after {step:,} student steps, which all of them reached"
        notes.append(
            f"Importance over {len(measured)} trials {at}: for numbers, the absolute {RANKS} (Spearman; it misses effects that "
            f"are not monotone); for other values, the {GROUPS} of equal value (eta squared; large by chance in small groups)."
        )
    else:
        notes.append(f"Importance needs {LEAST_TRIALS} measured trials, there are {len(measured)}.")
    for number, key in enumerate(list(measured[0].settings)[:MOST_PLOTTED_KEYS]):
        plots.append(figure_svg(sweep_figures.objective_against(key, measured, label), f"key-{number}"))
    return Section(wide=wide, plots=plots, notes=notes)


def _at_common_step(measured: list[Trial]) -> tuple[int | None, list[float]]:
    """The last student step at which every trial was measured, and the objectives there; without one the last objectives."""
    common = set.intersection(*(set(trial.steps) for trial in measured))
    finite = [s for s in common if all(abs(t.values[t.steps.index(s)]) < float("inf") for t in measured)]
    if not finite:
        return None, [float(trial.objective or 0.0) for trial in measured]
    step = max(finite)
    return step, [trial.values[trial.steps.index(step)] for trial in measured]


def _copies(trials: list[Trial]) -> Section | None:
    """Population-based training: which trial continued from which checkpoint, and with what settings."""
    rows: list[tuple[str, ...]] = [
        (trial.name, f"{copy['step']:,}", str(copy["from"]), settings_text(copy["settings"]))
        for trial in trials
        for copy in trial.copied
    ]
    if not rows:
        return None
    lead = "Trials that continued from the checkpoint of a better one, with changed settings. The first table has the newest."
    return Section(lead=lead, tables=[Table(("trial", "at step", "copied from", "settings since"), rows)])
