"""What a metric is: the number, its plot in the report, its export to Prometheus, its panel; and a method's own figures.

The metrics themselves are declared in ``metrics.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Plot:
    """One plot of the report, with a line for each student, generator or source that the metric belongs to.

    Attributes:
        section: the report's section; the metrics of ``waits`` share one stacked plot for each student and one for generators,
            those of ``discriminator`` share one of the section on feature alignment.
        over: its x axis.
        smooth: draw a running mean over the values.
        from_zero: the y axis begins at 0.
        rate: plot the amounts per second and not each record's own; those of all generators are added up.
        limit: the record's field that is drawn as a horizontal line, such as a capacity.
    """

    section: Literal["distillation", "synthesis", "throughput", "classes", "waits", "alignment", "discriminator"]
    over: Literal["time", "steps"] = "time"
    smooth: bool = False
    from_zero: bool = False
    rate: bool = False
    limit: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel of the dashboard that several metrics share.

    Attributes:
        width: of 24 columns.
        total: add up over sources and students; otherwise each has its own line.
    """

    title: str
    description: str
    width: int = 12
    total: bool = False


@dataclass(frozen=True)
class Export:
    """A metric at Prometheus.

    Attributes:
        name: as the actors export it.
        type: of a counter the record's value is added, of a gauge it is set. The dashboard shows a counter per second.
        panel: the dashboard's panel; None: one of its own, with the metric's label and help.
        increase_over: a counter too rare for a rate is shown as its increase over this time.
    """

    name: str
    type: Literal["counter", "gauge"]
    panel: Panel | None = None
    increase_over: str = ""


@dataclass(frozen=True)
class Metric:
    """One number of a kind of metrics record, or of result.json (kind ``result``).

    Attributes:
        kind: of the record.
        key: its field; in result.json the keys on the way to it, joined by dots.
        label: what people call it; it heads its plot and its panel.
        help: one sentence.
        unit: ``fraction`` is shown as a percentage, ``ratio`` is as well in [0,1] but shown plainly; ``s``, ``bytes``, or what
            is counted.
        short: what it is called beside others in one plot, panel or line of text.
        scale: of its y axis.
        plot: in the report, None: not plotted on its own.
        export: at Prometheus, None: not exported.
        status: its key in ``raydfkd status --json``, empty: not there.
    """

    kind: str
    key: str
    label: str
    help: str
    unit: str = ""
    short: str = ""
    scale: Literal["linear", "log"] = "linear"
    plot: Plot | None = None
    export: Export | None = None
    status: str = ""

    @property
    def name(self) -> str:
        """``short``, where there is one."""
        return self.short or self.label


@dataclass(frozen=True)
class Figure:
    """A plot of numbers that only one synthesis method reports; manifest.json lists those of a run's methods as ``figures``.

    Attributes:
        title: heads the plot.
        curves: fields of the ``synthesis`` and ``preparation`` records, and what each is called in the plot.
        percent: the values are fractions, shown as percentages.
    """

    title: str
    curves: Mapping[str, str] = field(hash=False)
    percent: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "curves": dict(self.curves), "percent": self.percent}

    @classmethod
    def from_json(cls, value: Any) -> Figure:
        """Reads what :meth:`as_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        curves = value.get("curves") if isinstance(value, dict) else None
        if not isinstance(curves, dict) or not isinstance(value.get("title"), str):
            raise ValueError("a figure needs a title and curves, a mapping of fields to labels")
        return cls(value["title"], {str(key): str(label) for key, label in curves.items()}, value.get("percent") is True)
