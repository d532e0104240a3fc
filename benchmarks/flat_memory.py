"""Peak memory of `gde sample` against the number of samples: `python benchmarks/flat_memory.py 1000
3000 10000`.

Of two steps each: memory does not depend on their number.
"""

import resource
import subprocess
import sys
import tempfile

for count in map(int, sys.argv[1:] or (1000, 3000)):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                "-m",
                "guided_diffusion_edu",
                "sample",
                "--count",
                str(count),
                "--steps",
                "2",
                "--out",
                f"{folder}/a.npz",
            ],
            check=True,
        )
    # of the largest child so far: begin with the smallest count
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{count:6} samples: at most {peak:.0f} MiB", flush=True)
