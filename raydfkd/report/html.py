"""The report of one run as a single self-contained HTML file: no requests, no scripts, no fonts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydfkd.errors import RunDirError
from raydfkd.metrics import find
from raydfkd.report.loading import RunData, load_run
from raydfkd.report.result_rows import MISSING, part, result_label, result_text
from raydfkd.report.sections import build_parts
from raydfkd.run_dir import RunDir, write_atomically

_STATES = {
    "finished": "finished",
    "running": "running, so far",
    "stopped": "stopped, so far",
    "failed": "failed, so far",
}


@dataclass(frozen=True)
class KeyFigure:
    """One number of the headline; ``kind`` is its colour role in the page."""

    label: str
    value: str
    detail: str = ""
    kind: str = ""


def write_report(run_path: str | Path) -> Path:
    """Renders ``run_path`` as its report.html, finished or not, and returns that file's path.

    Raises:
        RunDirError: there is no run, or the report cannot be written there.
    """
    run = load_run(run_path)
    page = render(
        "report.html.j2",
        name=str(run.manifest.get("name") or run.path.resolve().name),
        state=run.state,
        state_text=_STATES.get(run.state, run.state),
        title=_title(run),
        facts=_facts(run),
        headline=_headline(run),
        error=run.manifest.get("error"),
        parts=build_parts(run),
        problems=run.problems,
    )
    return write_page(RunDir(run.path).report_path, page)


def render(template: str, **values: Any) -> str:
    """Fills a template of this folder; all values are escaped except those that the template marks as SVG."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def write_page(path: Path, page: str) -> Path:
    try:
        write_atomically(path, page)
    except OSError as error:
        raise RunDirError(f"{path} cannot be written ({error.strerror}): make its folder writable") from error
    return path


def _title(run: RunData) -> dict[str, str]:
    outcome = run.outcome
    return {
        "method": str(outcome.get("method") or "distillation"),
        "teacher": str(part(outcome, "teacher", "model") or "teacher"),
        "student": " and ".join(_student_models(outcome)) or "student",
    }


def _student_models(outcome: dict[str, Any]) -> list[str]:
    students = outcome.get("students")
    every = students.values() if isinstance(students, dict) and students else [outcome.get("student") or {}]
    return [str(student["model"]) for student in every if student.get("model")]


def _facts(run: RunData) -> list[str]:
    outcome = run.outcome
    facts = [str(outcome[key]) for key in ("schedule", "runner", "device") if outcome.get(key)]
    if outcome.get("seed") is not None:
        facts.append(f"seed {outcome['seed']}")
    steps, total = outcome.get("student_steps"), run.total_steps
    if steps is not None:
        facts.append(f"{steps:,} of {total:,} steps" if run.result is None and total else f"{steps:,} steps")
    if run.manifest.get("started_at"):
        facts.append(f"started {run.manifest['started_at']}")
    return facts


def _headline(run: RunData) -> list[KeyFigure]:
    outcome = run.outcome
    gap = result_text(outcome, find("result", "points_to_teacher"))
    teacher_params, student_params = (result_text(outcome, find("result", f"{who}.params")) for who in ("teacher", "student"))

    def figure(key: str, detail: str = "", kind: str = "", short: bool = True) -> KeyFigure:
        metric = find("result", key)
        return KeyFigure(result_label(outcome, metric, short), result_text(outcome, metric), detail, kind)

    figures = [
        figure("teacher.metric", kind="teacher"),
        figure("student.metric_last", f"{gap} to the teacher" if gap != MISSING else "", "last", short=False),
        figure("student.metric_ema", "moving average of weights", "ema", short=False),
        figure("student.agreement", "same decision as the teacher"),
        figure("size_ratio", f"{teacher_params} to {student_params} parameters"),
        figure("end_to_end_s", "wall-clock time" if run.result is not None else "so far"),
        figure("synthesis_s", "time spent on images"),
        figure("distillation_s", "time spent training the student"),
    ]
    return [figure for figure in figures if figure.value != MISSING]
