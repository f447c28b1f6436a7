"""Exact match and F1 of an answer, as SQuAD 1.1's official script has them.

Normal form  in lower case; ASCII punctuation cut out, what stood on both sides then joined; without
             the words a, an and the; words parted by single blanks
Of several   gold answers, the best one counts
Kept as is   punctuation beyond ASCII; an answer of no words has no F1, even with one like itself
Check        tests/train/test_answer_scores.py
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLE = re.compile(r"\b(a|an|the)\b")


def normal(text: str) -> str:
    """The normal form, in which answers are compared."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1.0 if an answer equals a gold one, else 0.0."""
    return float(any(normal(answer) == normal(one) for one in gold))


def f1(answer: str, gold: Sequence[str]) -> float:
    """Harmonic mean of precision and recall in words, each counted as often as it occurs."""
    return max(_f1(normal(answer).split(), normal(one).split()) for one in gold)


def _f1(words: list[str], gold: list[str]) -> float:
    shared = (Counter(words) & Counter(gold)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold)
    return 2 * precision * recall / (precision + recall)
