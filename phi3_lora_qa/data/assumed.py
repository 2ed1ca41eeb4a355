"""What is assumed of a suite's items before any model has answered them."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """What power rests on: how often, and how widely, base and tuned differ on an item.

    ``discordant`` is the share of items that the two score differently, ``deviation`` the standard
    deviation of an item's change of loss, in nats per token.
    """

    discordant: float = 0.10
    deviation: float = 0.30
