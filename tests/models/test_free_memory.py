"""The free memory is that of the machine, or less if the process is in a container."""

from pathlib import Path

import pytest

from phi3_lora_qa.models.free_memory import free_bytes, free_ram

MEMINFO = "MemTotal: 8000 kB\nMemAvailable: 4000 kB\nSwapFree: 500 kB\n"


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def machine(root: Path, cgroup: str = "0::/") -> Path:
    write(root / "proc/meminfo", MEMINFO)
    write(root / "proc/self/cgroup", cgroup)
    return root


def test_without_a_container_it_is_what_is_available_and_free_swap(tmp_path: Path) -> None:
    assert free_ram(machine(tmp_path)) == 4500 << 10


@pytest.mark.parametrize("path", ["/", "/job/step", "/of/the/host"])
def test_a_container_may_have_less(tmp_path: Path, path: str) -> None:
    machine(tmp_path, f"0::{path}")
    group = tmp_path / "sys/fs/cgroup" / ("job" if path == "/job/step" else "")
    write(group / "memory.max", 3_000_000)
    write(group / "memory.current", 2_500_000)
    write(group / "memory.stat", "inactive_file 1000000\nactive_file 0\nother 7")
    assert free_ram(tmp_path) == 1_500_000 + (500 << 10)


def test_the_smallest_limit_of_all_groups_applies(tmp_path: Path) -> None:
    machine(tmp_path, "0::/job/step")
    for name, most in (("job", 100_000), ("job/step", 2_000_000)):
        write(tmp_path / "sys/fs/cgroup" / name / "memory.max", most)
        write(tmp_path / "sys/fs/cgroup" / name / "memory.current", 0)
        write(tmp_path / "sys/fs/cgroup" / name / "memory.stat", "")
    assert free_ram(tmp_path) == 100_000 + (500 << 10)


def test_the_first_version_of_control_groups_is_read_and_its_cache_counted_once(
    tmp_path: Path,
) -> None:
    machine(tmp_path, "4:cpu,memory:/job\n1:cpu:/other")
    group = tmp_path / "sys/fs/cgroup/memory/job"
    write(group / "memory.limit_in_bytes", 2_000_000)
    write(group / "memory.usage_in_bytes", 1_500_000)
    stat = "inactive_file 1\nactive_file 1\ntotal_inactive_file 300000\ntotal_active_file 200000"
    write(group / "memory.stat", stat)
    assert free_ram(tmp_path) == 1_000_000 + (500 << 10)


@pytest.mark.parametrize("limit", ["max", "", "none"])
def test_no_limit_is_no_limit(tmp_path: Path, limit: str) -> None:
    machine(tmp_path)
    write(tmp_path / "sys/fs/cgroup/memory.max", limit)
    write(tmp_path / "sys/fs/cgroup/memory.current", 0)
    assert free_ram(tmp_path) == 4500 << 10


def test_elsewhere_it_is_the_whole_memory(tmp_path: Path) -> None:
    assert (free_ram(tmp_path) or 0) > 1 << 28


def test_this_machine_has_some_and_an_unknown_device_is_unknown() -> None:
    assert (free_bytes("cpu") or 0) > 1 << 20
    assert free_bytes("auto") is None
