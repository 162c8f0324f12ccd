"""Whether freed memory stays: page faults of a thread that takes and gives back the same block again and again."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource, sys, threading
from gssl_jax.training import host_memory
host_memory.ACCELERATORS = sys.argv[2:]
print(host_memory.keep_freed_memory() if sys.argv[1] == "keep" else None)
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def use():
    for turn in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(2**27)
        ctypes.memset(ctypes.c_void_p(block), 1, 2**27)
        libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=use)
thread.start(); thread.join()
"""


def asked_and_faults(*arguments):
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer, faults = done.stdout.split()
    return answer, int(faults)


def test_a_block_that_comes_back_is_not_mapped_afresh():
    """2^27 bytes are 32,768 pages of 4 KiB; with huge pages 64 of 2 MiB."""
    answer, faults = asked_and_faults("keep")
    _, ordinary = asked_and_faults("leave")
    assert answer == "True" and faults < 16 <= ordinary


def test_nothing_is_done_beside_an_accelerator():
    assert asked_and_faults("keep", "json")[0] == "False"  # as if `json` were the plug-in of one
