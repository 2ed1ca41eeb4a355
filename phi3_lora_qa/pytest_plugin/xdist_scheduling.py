"""How xdist hands out work when the gate runs beside a user's tests. Imported with xdist only."""

from xdist.scheduler import LoadScopeScheduling

from phi3_lora_qa.gate.plan import ROOT


class GateOnOneWorker(LoadScopeScheduling):
    """All checks of the gate form one scope; every other test is a scope of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return ROOT if nodeid.startswith(f"{ROOT}::") else nodeid
