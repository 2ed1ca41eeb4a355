"""From a model and items to scores: the loss of the reference, and the answer that is given.

``prompts`` turns items into tokens, ``batches`` plans them, ``losses`` and ``answers`` run the
model, ``score`` joins the two and keeps one item's trouble from the others.
"""

from phi3_lora_qa.scoring.score_items import ItemScore, ScoringOptions, score_items

__all__ = ["ItemScore", "ScoringOptions", "score_items"]
