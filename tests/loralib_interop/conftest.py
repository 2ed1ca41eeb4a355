from tests.tiny_base import ids, model, perturb, tiny

__all__ = ["ids", "model", "perturb", "tiny"]
