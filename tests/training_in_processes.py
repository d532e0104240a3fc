"""Runs of the training loop in processes of their own, for depth/test_checkpoints_and_processes.py:
`kill FOLDER SEED` and `share FOLDER`.

One import of torch serves them all: each run is a fork of this process.
"""

import os
import random
import select
import signal
import socket
import sys
import tempfile
import traceback
from pathlib import Path
from threading import RLock

import torch
from tqdm import tqdm

import guided_diffusion_edu as gde
from guided_diffusion_edu import training
from guided_diffusion_edu.distributed import gather_rows, own_rows, processes
from guided_diffusion_edu.losses import SecondMomentSteps

DIGITS = gde.Images(
    torch.randint(256, (64, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
    torch.arange(64) % 10,
    tuple("0123456789"),
)
SCHEDULE = gde.linear_schedule(25)
UNET = gde.UNetConfig(
    image_size=8,
    in_channels=1,
    channels=32,
    channel_mult=(1,),
    res_blocks=1,
    attention_resolutions=(),
    head_channels=32,
    learned_variance=True,
)


class Tiny(torch.nn.Module):
    "A model of eps with dropout, whose steps take a millisecond."

    def __init__(self, dropout=0.1):
        super().__init__()
        self.first, self.last, self.dropout = (
            torch.nn.Conv2d(1, 8, 3, padding=1),
            torch.nn.Conv2d(8, 1, 3, padding=1),
            torch.nn.Dropout(dropout),
        )

    def forward(self, x_t, t, y=None):
        return self.last(self.dropout(self.first(x_t).relu()) + t.view(-1, 1, 1, 1) / 25)


def plain(model, schedule, x_0, y, t, eps):
    return gde.simple_loss(model, schedule, x_0, t, eps)


def tiny_run(folder, dropout=0.1, loss=plain, **fields):
    "A run with importance, which begins when each of the 25 levels has been seen twice."
    training.TIMESTEPS["importance"] = lambda T: SecondMomentSteps(T, history=2)
    torch.manual_seed(0)
    recipe = gde.Recipe(
        **dict(steps=40, batch=16, warmup=2, save_every=1, timesteps="importance") | fields
    )
    model, path = Tiny(dropout), Path(folder) / "checkpoint"
    average, history = training.fit(model, loss, DIGITS, SCHEDULE, recipe, path, progress=False)
    return average, history[:, 0].tolist()


def unet_run(folder, **fields):
    return gde.train_diffusion(
        UNET,
        DIGITS,
        folder,
        gde.Recipe(**dict(steps=3, batch=8, warmup=1, accumulate=2) | fields),
        progress=False,
    )


def forked(work):
    "The process in which `work()` runs, and a pipe that it closes at its end."
    reads, writes = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writes)
        return pid, reads
    code = 0
    try:
        work()
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    os._exit(code)


def kill(folder, seed):
    "Kill a run at random moments, later and later, until it comes to its end. Prints how often."
    random.seed(int(seed))
    for attempt in range(50):  # the last waits for minutes: a busy machine only makes it more kills
        pid, pipe = forked(lambda: tiny_run(folder))
        ended, _, _ = select.select([pipe], [], [], random.uniform(0, 0.02 * 1.2**attempt))
        if not ended:
            os.kill(pid, signal.SIGKILL)
        os.close(pipe)
        status = os.waitpid(pid, 0)[1]
        if status == 0:
            return print(attempt)
        if status != signal.SIGKILL:
            sys.exit("the run failed of itself")
    sys.exit("the run never came to its end")


def share(folder):
    "Two processes, as `torchrun` starts them, on one batch."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    def work(rank):
        os.environ |= dict(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
        with processes():
            assert torch.distributed.get_world_size() == 2
            rows = torch.arange(6).view(6, 1) * 10
            assert own_rows(rows).flatten().tolist() == [[0, 20, 40], [10, 30, 50]][rank]
            assert torch.equal(gather_rows(own_rows(rows)), rows)
            unet_run(Path(folder) / "unet")
            unet_run(Path(folder) / "unet")  # finds the work done
            tiny_run(folder, dropout=0.0)

    started = [forked(lambda: work(rank)) for rank in range(2)]
    sys.exit(any([os.waitpid(pid, 0)[1] for pid, _ in started]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    tqdm.set_lock(RLock())  # its own is shared by all forks, and one that is killed may hold it
    with tempfile.TemporaryDirectory() as folder:
        tiny_run(folder, steps=1)  # what torch imports at the first step is there before the forks
    dict(kill=kill, share=share)[sys.argv[1]](*sys.argv[2:])
