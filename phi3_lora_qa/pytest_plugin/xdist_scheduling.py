"""How xdist distributes the gate and a user's tests. Imported only if xdist is used."""

from xdist.scheduler import LoadScopeScheduling

from phi3_lora_qa.gate.plan import ROOT


class GateOnOneWorker(LoadScopeScheduling):
    """All checks of the gate form one scope; every other test is its own scope."""

    def _split_scope(self, nodeid: str) -> str:
        return ROOT if nodeid.startswith(f"{ROOT}::") else nodeid
