"""What tests let several processes do. Found there by name, and so in a module that is quick to import."""

import inspect
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import torch

from hrf.distributed.ranks import this_rank
from hrf.errors import NumericalError


def call_steps(calls: list) -> None:
    """Call step functions one after another, as a rank does: one start of processes for many."""
    for function, arguments in calls:
        inspect.unwrap(function)(**arguments)
        # The first one may still be writing what the next call reads.
        this_rank().wait_for_all()


def talk(value: int) -> dict:
    ranks = this_rank()
    own = torch.full((ranks.index, 2), float(ranks.index))
    summed = torch.tensor([1.0 + ranks.index])
    ranks.add_up([summed])
    return {
        "value": value,
        "joined": ranks.concatenate(own).tolist(),
        "nothing": list(ranks.concatenate(torch.empty(0, 3)).shape),
        "sum": summed.item(),
        "same": ranks.all_have(torch.ones(2)),
        "different": ranks.all_have(torch.full((2,), float(ranks.index))),
        "threads": torch.get_num_threads(),
        "is_first": ranks.concatenate(torch.tensor([ranks.is_first]).int()).tolist(),
    }


def exchange(num_floats: int) -> dict:
    """Exchange what large networks do, gradients and samples, and look at the shared memory meanwhile."""
    ranks = this_rank()
    gradients = torch.full((num_floats,), 1.0 + ranks.index)
    ranks.add_up([gradients])
    samples = ranks.concatenate(torch.full((num_floats,), float(ranks.index)))
    return {
        "sum": gradients.mean().item(),
        "samples": samples.mean().item(),
        "room": shutil.disk_usage("/dev/shm").total,
    }


@torch.no_grad()
def look_at_shares(folders: dict[str, str]) -> dict:
    """Which part of a trainer's networks a rank holds, and what the first one alone is answered by them."""
    from hrf.distributed.sharding import gathered
    from hrf.policies.folders import load_policy
    from hrf.steps.context import RunContext
    from hrf.steps.update import load_trainer

    context, base, policy = RunContext.read(folders["run"], replica=0), Path(folders["base"]), Path(folders["policy"])
    shared = load_trainer(context, base, policy, folders["training_state"]).policy
    networks = (shared.denoiser, shared.reference)
    held, answers = [], []
    for network in networks:
        sizes = [(weight.to_local().numel(), weight.numel()) for weight in network.parameters()]
        held.append(sum(part for part, _ in sizes) / sum(whole for _, whole in sizes))
    with gathered(*networks):
        if this_rank().is_first:
            whole = load_policy(context.config, base, policy)
            question = torch.ones(1, *shared.sample_shape), torch.tensor([0])
            answers = [one.transition(*question)[0].tolist() for one in (shared, shared.as_reference(), whole)]
    return {"held": held, "answers": answers}


def note_pid(folder: str) -> None:
    (Path(folder) / f"pid-{this_rank().index}").write_text(str(os.getpid()))


def fail(folder: str, how: str) -> None:
    """The last rank fails while the others wait for it, and would write what is never whole."""
    note_pid(folder)
    ranks = this_rank()
    if ranks.index == ranks.count - 1:
        end(how)
    ranks.wait_for_all()
    (Path(folder) / "output").touch()


def end(how: str) -> None:
    match how:
        case "number":
            raise NumericalError("a loss is not finite", where="epoch=3", fix="lower the rate")
        case "other":
            raise ZeroDivisionError("by nought")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stuck":
            time.sleep(600)


def wait_for_ever(folder: str) -> None:
    note_pid(folder)
    time.sleep(600)


def mean_red(images: np.ndarray) -> np.ndarray:
    return images[:, 0].mean(axis=(1, 2)).astype(np.float64)


def mean_blue(images: np.ndarray) -> np.ndarray:
    return images[:, 2].mean(axis=(1, 2)).astype(np.float64)


def prompt_lengths(images: np.ndarray, prompts: list[str]) -> list[int]:
    return [len(prompt) for prompt in prompts]


def nothing(images: np.ndarray) -> np.ndarray:
    return np.zeros(len(images))


def reward_of_a_rank_that_dies(images: np.ndarray) -> np.ndarray:
    """As `mean_red`; the last rank's process is killed at its second call."""
    global _calls
    _calls += 1
    ranks = this_rank()
    note_pid(os.environ["PID_FOLDER"])
    if ranks.index == ranks.count - 1 and _calls == 2:
        end("killed")
    return mean_red(images)


def reward_without_the_last(images: np.ndarray) -> np.ndarray:
    """As `mean_red`, but the last image of the last rank has none."""
    scores = mean_red(images)
    if this_rank().index == this_rank().count - 1:
        scores[-1] = np.nan
    return scores


_calls = 0
