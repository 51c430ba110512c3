"""Commands of the dispatcher that run to their end, as forks (`testbed.forking`).

For tests of what commands do. Those of how they start, of signals and of terminals start them as users do.
"""

import os
import subprocess
import sys

import trio

from testbed import forking


async def run(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run the command line to its end, with its outputs in pipes. *Cancellation*: it is killed.

    Args:
        arguments: What follows the name of the program.
    """
    if not forking.is_allowed():
        command = [sys.executable, "-m", "dispatcher", *arguments]
        return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    output, output_end = os.pipe()
    errors, errors_end = os.pipe()
    printed: dict[int, bytes] = {}

    async def read(descriptor: int) -> None:
        async with trio.lowlevel.FdStream(descriptor) as stream:
            printed[descriptor] = b"".join([bytes(part) async for part in stream])

    try:
        process = await trio.to_thread.run_sync(forking.start, arguments, output_end, errors_end)
    finally:
        os.close(output_end)
        os.close(errors_end)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, output)
            nursery.start_soon(read, errors)
        await trio.lowlevel.wait_readable(process)
    finally:
        process.kill()
        returncode = process.wait()
    return subprocess.CompletedProcess(arguments, returncode, printed[output], printed[errors])
