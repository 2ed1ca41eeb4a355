"""Internal: score items under a model, by the loss of the reference and the model's answer.

``prompts`` turns items into tokens and ``batches`` groups them. ``batch_engine`` and
``plain_engine`` run a model; ``engine_choice`` picks one of the two. ``score_items`` ties them
together and confines an error to the item that caused it. ``remote_scoring`` gets the same scores
from a server.
"""

from phi3_lora_qa.scoring.score_items import ItemScore as ItemScore
from phi3_lora_qa.scoring.score_items import ScoringOptions as ScoringOptions
from phi3_lora_qa.scoring.score_items import score_items as score_items
