"""Properties of whole models with adapters."""
