from tests.tiny_base import ids, model, perturb

__all__ = ["ids", "model", "perturb"]
