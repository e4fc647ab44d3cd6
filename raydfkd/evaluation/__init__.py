"""What a network is worth on real data: accuracy, agreement with the teacher. Always says which split it read."""

from raydfkd.evaluation.accuracy import Evaluation, Evaluator, evaluate
from raydfkd.evaluation.scores import agreement, class_entropy

__all__ = ["Evaluation", "Evaluator", "agreement", "class_entropy", "evaluate"]
