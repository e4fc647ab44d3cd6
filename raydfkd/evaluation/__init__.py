"""How well a network does on real data: accuracy and agreement with the teacher. Results always name the split read."""

from raydfkd.evaluation.accuracy import Evaluation, Evaluator, evaluate
from raydfkd.evaluation.scores import agreement, class_entropy

__all__ = ["Evaluation", "Evaluator", "agreement", "class_entropy", "evaluate"]
