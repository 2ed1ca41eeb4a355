"""The catalogue of all properties."""

from functools import cache

from phi3_lora_qa.properties.layer_property import Property


@cache
def all_properties() -> tuple[Property, ...]:
    """Return every property, grouped by theme, in the order of definition.

    Returns:
        The properties of deltas, forward passes, multiple adapters, merging, whole models and
        training steps.

    Example:
        >>> [prop.id for prop in all_properties()][0]
        'delta_is_scaling_times_b_times_a'
    """
    from phi3_lora_qa.properties import (
        delta,
        forward,
        merging,
        multiple_adapters,
        training_step,
        whole_model,
    )

    # A gate draws from them by position: another order draws other cases from the same seed.
    themes = (delta, forward, multiple_adapters, merging, whole_model, training_step)
    return tuple(
        member
        for theme in themes
        for member in vars(theme).values()
        if isinstance(member, Property)
    )
