"""What was freed goes back to the system, also after large blocks in many threads."""

import subprocess
import sys

import pytest

# Bodies of 24 MiB in eight threads, of which small blocks are kept behind each large one.
CODE = """
import sys, threading
from pathlib import Path
if sys.argv[1] == "told":
    from voxtral_worker.allocator import give_large_blocks_back
    assert give_large_blocks_back()
kept = []
def work():
    for _ in range(6):
        body = b"x" * (24 << 20)
        kept.append(body[:1000])
        text = body.decode()
        kept.append(text[:1000])
        del body, text
threads = [threading.Thread(target=work) for _ in range(8)]
before = Path("/proc/self/statm").read_text().split()[1]
for thread in threads: thread.start()
for thread in threads: thread.join()
after = Path("/proc/self/statm").read_text().split()[1]
print((int(after) - int(before)) * 4 // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux's C library alone")
def test_large_blocks_go_back_to_the_system() -> None:
    found = subprocess.run(
        [sys.executable, "-c", CODE, "told"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(found.stdout) < 50
