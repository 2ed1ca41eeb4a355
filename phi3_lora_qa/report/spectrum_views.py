"""The adapter's updates by kind of module, from the first layer to the last."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from phi3_lora_qa.record import Spectrum
from phi3_lora_qa.report.plots import BarPlot, bar_plot
from phi3_lora_qa.report.safe_text import to_float


@dataclass(frozen=True, kw_only=True)
class KindView:
    """All modules of one kind, in the order of the layers."""

    name: str
    modules: tuple[Spectrum, ...]
    smallest: float
    largest: float
    norms: BarPlot
    decay: BarPlot


def kind_views(spectra: Sequence[Spectrum]) -> tuple[KindView, ...]:
    """Return the modules by kind, each kind from its first layer to its last."""
    kinds: dict[str, list[Spectrum]] = {}
    for spectrum in sorted(spectra, key=lambda s: _natural(s.module)):
        kinds.setdefault(spectrum.module.rsplit(".", 1)[-1], []).append(spectrum)
    return tuple(
        KindView(
            name=name,
            modules=tuple(modules),
            smallest=min(m.frobenius for m in modules),
            largest=max(m.frobenius for m in modules),
            norms=bar_plot([m.frobenius for m in modules]),
            decay=bar_plot(_decay(modules)),
        )
        for name, modules in kinds.items()
    )


def _decay(modules: Sequence[Spectrum]) -> list[float]:
    """Return each singular value as a share of the largest, averaged over the modules."""
    shares: list[list[float]] = []
    for module in modules:
        values = [to_float(value) for value in module.singular_values]
        if values and values[0] > 0:
            shares.append([value / values[0] for value in values])
    length = min(map(len, shares), default=0)
    return [sum(share[i] for share in shares) / len(shares) for i in range(length)]


def _natural(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts layer 10 after layer 9."""
    parts = re.split(r"(\d+)", name)
    return [(p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts]
