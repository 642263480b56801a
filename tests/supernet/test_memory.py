import subprocess
import sys

import pytest

from hwnas.supernet.memory import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from hwnas.supernet.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
step = lambda: [torch.zeros(2**21) for _ in range(16)]  # 16 x 8 MiB, all freed together: 2,048 pages each
step(), step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_freed_memory_is_used_again() -> None:
    assert page_faults("keep") < 0.1 * page_faults("hand back")


def test_elsewhere_than_with_glibc_it_says_that_it_did_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
