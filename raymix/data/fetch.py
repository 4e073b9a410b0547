"""The data sets `raymix/fetch...-multigoal-v0`: Fetch tasks with four goals, made here by scripted experts.

Episode i goes to goal i % 4 by the task's expert with noise, from its own seeds: the data do not depend on how many
processes made them, and a smaller data set is the beginning of a larger one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raymix.data import minari as local_minari
from raymix.data.columns import Episode
from raymix.types import UsageError


@dataclass(frozen=True)
class Task:
    """One of the Fetch tasks."""

    name: str
    """Short name of its data set, without a size."""
    title: str
    environment: str
    """Gymnasium id."""
    expert: str
    """What acted, for Minari's metadata."""
    inside: str
    """What is rewarded, for Minari's metadata."""


REACH = Task(
    "fetchreach-multigoal",
    "FetchReach",
    "raymix/FetchReachMultiGoal-v0",
    "proportional expert, gain 10, action noise N(0, 0.2)",
    "in",
)
PUSH = Task(
    "fetchpush-multigoal",
    "FetchPush",
    "raymix/FetchPushMultiGoal-v0",
    "scripted expert (go behind, go down, push), action noise N(0, 0.2)",
    "with the object in",
)
PICK_AND_PLACE = Task(
    "fetchpickandplace-multigoal",
    "FetchPickAndPlace",
    "raymix/FetchPickAndPlaceMultiGoal-v0",
    "scripted expert (open, go down, close, carry), action noise N(0, 0.2)",
    "with the object in",
)
TASKS = (REACH, PUSH, PICK_AND_PLACE)
EPISODES_PER_GOAL = 500
SOURCES = ("first-quadrant", "second-quadrant", "third-quadrant", "fourth-quadrant")
SEED = 0
REFERENCE_EPISODES = 20
_STEPS = 50
_CHUNK = 25
_EXPERT, _BEST_EXPERT, _RANDOM = range(3)
_WORKER_FLAG = "RAYMIX_ROLLOUT_WORKER"
_logger = logging.getLogger(__name__)

_Chunk = tuple[Task, int, int, int, int]
"""The arguments of `_roll`."""
Progress = Callable[[int, int], None]
"""Called with (episodes done, episodes in all)."""


def dataset_id(task: Task, episodes_per_goal: int = EPISODES_PER_GOAL) -> str:
    """The Minari id for a size: sizes other than 500 carry theirs, so that data sets never mix."""
    if episodes_per_goal < 1:
        raise UsageError(f"episodes_per_goal is {episodes_per_goal}; it must be at least 1.")
    size = "" if episodes_per_goal == EPISODES_PER_GOAL else f"-{episodes_per_goal}"
    return f"raymix/{task.name}{size}-v0"


def parse(name: str) -> tuple[Task, int] | None:
    """Task and episodes per goal of a short or full name, such as `fetchpush-multigoal-8`; None for other names."""
    for task in TASKS:
        match = re.fullmatch(rf"(?:raymix/)?{task.name}(?:-(\d+))?(?:-v0)?", name)
        if match:
            return task, int(match.group(1) or EPISODES_PER_GOAL)
    return None


def generate(
    task: Task,
    episodes_per_goal: int,
    *,
    seed: int = SEED,
    workers: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[Episode], list[int], float, float]:
    """Roll out the experts and the two reference policies.

    Args:
        task: which.
        episodes_per_goal: episodes for each of the four goals, of 50 transitions each.
        seed: of everything; the same seed gives bit-identical episodes.
        workers: processes; all usable cores if None, none but this one if 1.
        progress: called in this process as episodes arrive.

    Returns:
        The episodes; the seed that `reset` got for each; the mean returns of the random policy and of the
        best-goal expert over 20 episodes each.

    Raises:
        UsageError: called in a script without a `__main__` guard, or a mujoco that Fetch cannot use.
    """
    dataset_id(task, episodes_per_goal)
    number = len(SOURCES) * episodes_per_goal
    kinds = [(_EXPERT, number), (_BEST_EXPERT, REFERENCE_EPISODES), (_RANDOM, REFERENCE_EPISODES)]
    chunks = [
        (task, seed, kind, start, min(start + _CHUNK, count))
        for kind, count in kinds
        for start in range(0, count, _CHUNK)
    ]
    workers = min(workers or _usable_cores(), len(chunks))
    results: dict[int, list[tuple[Episode, int]]] = {}
    done = 0
    with contextlib.closing(_run(chunks, workers)) as arriving:
        for index, rolled in arriving:
            results[index] = rolled
            done += len(rolled)
            if progress is not None:
                progress(done, number + 2 * REFERENCE_EPISODES)
    by_kind: dict[int, list[tuple[Episode, int]]] = {kind: [] for kind, _ in kinds}
    for index, (_, _, kind, _, _) in enumerate(chunks):
        by_kind[kind].extend(results[index])
    reference_min, reference_max = (
        float(np.mean([episode.rewards.sum(dtype=np.float64) for episode, _ in by_kind[kind]]))
        for kind in (_RANDOM, _BEST_EXPERT)
    )
    episodes, seeds = zip(*by_kind[_EXPERT], strict=True)
    return list(episodes), list(seeds), reference_min, reference_max


def make(
    task: Task,
    episodes_per_goal: int = EPISODES_PER_GOAL,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> str:
    """Make the Minari data set unless it is there already, and return its id.

    It is written under a hidden folder of Minari's root and renamed into place when whole, under a lock: a kill
    leaves nothing that counts as a data set, and of two processes the second waits and then finds it made.

    Raises:
        UsageError: as `generate`, or Minari's root cannot be written.
    """
    name = dataset_id(task, episodes_per_goal)
    if is_made(task, episodes_per_goal):
        return name
    if _WORKER_FLAG in os.environ:
        raise UsageError(_guard_sentence(task))
    import filelock

    workspace = local_minari.root() / ".raymix"
    try:
        workspace.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(workspace / f"{name.replace('/', '--')}.lock")
        try:
            held = lock.acquire(blocking=False)
        except filelock.Timeout:
            _logger.warning("Another process is making %s; waiting for it.", name)
            held = lock.acquire()
    except OSError as error:
        raise UsageError(
            f"The data set {name} cannot be written under {local_minari.root()} ({error});"
            " set MINARI_DATASETS_PATH to a folder that can be written."
        ) from error
    # Not `with lock`, which would count a second hold and let go of one.
    with held:
        if not is_made(task, episodes_per_goal):
            _build(task, episodes_per_goal, workspace, workers, progress)
    return name


def is_made(task: Task, episodes_per_goal: int = EPISODES_PER_GOAL) -> bool:
    """Whether the data set of this size is there, whole."""
    name = dataset_id(task, episodes_per_goal)
    facts = local_minari.metadata(name)
    number = len(SOURCES) * episodes_per_goal
    return (
        facts is not None
        and facts.get("total_episodes") == number
        and facts.get("sources") == list(SOURCES)
        and (local_minari.root() / name / "data" / "main_data.hdf5").exists()
    )


def _build(task: Task, episodes_per_goal: int, workspace: Path, workers: int | None, progress: Progress | None) -> None:
    name = dataset_id(task, episodes_per_goal)
    prefix = f"build-{name.replace('/', '--')}-"
    for abandoned in workspace.glob(f"{prefix}*"):  # Ours alone: we hold the lock.
        shutil.rmtree(abandoned)
    episodes, seeds, reference_min, reference_max = generate(
        task, episodes_per_goal, workers=workers, progress=progress
    )
    with tempfile.TemporaryDirectory(prefix=prefix, dir=workspace) as temporary:
        with minari_root(Path(temporary)):
            _write(task, name, episodes, seeds, reference_min, reference_max)
        target = local_minari.root() / name
        target.parent.mkdir(parents=True, exist_ok=True)
        namespace = target.parent / "namespace_metadata.json"
        if not namespace.exists():
            namespace.write_text(json.dumps({}))
        if target.exists():  # Not whole, or there would be nothing to build; it goes with the temporary folder.
            target.rename(Path(temporary) / "incomplete")
        (Path(temporary) / name).rename(target)


def described(task: Task) -> str:
    """What a data set of the task is, in a sentence."""
    return (
        f"{task.title} with four goals around the gripper's start and no goal in the observation;"
        f" reward 2 per step {task.inside} the first-quadrant goal, 1 in any other."
    )


def _write(
    task: Task, name: str, episodes: list[Episode], seeds: list[int], reference_min: float, reference_max: float
) -> None:
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer

    import raymix.envs  # noqa: F401  (registers the environment)

    buffers = [
        EpisodeBuffer(
            seed=seed,
            observations=episode.observations,  # type: ignore[arg-type]
            actions=episode.actions,  # type: ignore[arg-type]
            rewards=episode.rewards,  # type: ignore[arg-type]
            terminations=episode.terminations,  # type: ignore[arg-type]
            truncations=episode.truncations,  # type: ignore[arg-type]
        )
        for episode, seed in zip(episodes, seeds, strict=True)
    ]
    spec = gymnasium.spec(task.environment)
    with warnings.catch_warnings():
        # Minari asks for an author, an e-mail address and a permalink.
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")
        dataset = minari.create_dataset_from_buffers(
            name,
            buffers,
            env=spec,
            eval_env=spec,
            ref_min_score=reference_min,
            ref_max_score=reference_max,
            num_episodes_average_score=REFERENCE_EPISODES,
            algorithm_name=task.expert,
            description=described(task),
            requirements=["mujoco<3.12", "gymnasium-robotics>=1.4.2"],
        )
    dataset.storage.update_metadata({"sources": list(SOURCES)})
    dataset.storage.update_episode_metadata([{"source": episode.source} for episode in episodes])


@contextlib.contextmanager
def minari_root(path: Path) -> Iterator[None]:
    """Minari takes its root from the environment only."""
    with _environment_variable("MINARI_DATASETS_PATH", str(path)):
        yield


@contextlib.contextmanager
def _environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _guard_sentence(task: Task) -> str:
    return (
        "A process that rolls out episodes ended early; if the calling script runs more than definitions on import,"
        f' put that under `if __name__ == "__main__":`, or run `raymix data make {task.name}` before it.'
    )


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run(chunks: list[_Chunk], workers: int) -> Generator[tuple[int, list[tuple[Episode, int]]]]:
    if workers == 1:
        for index, chunk in enumerate(chunks):
            yield index, _roll(*chunk)
        return
    # Spawned, not forked: the caller may hold threads (Ray, torch) that a fork would break.
    context = multiprocessing.get_context("spawn")
    with _environment_variable(_WORKER_FLAG, "1"):
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare_worker)
        try:
            futures = {pool.submit(_roll, *chunk): index for index, chunk in enumerate(chunks)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UsageError(_guard_sentence(chunks[0][0])) from error
        finally:
            # Not by `with pool`, which after an interrupt or an error would first work off all that is queued.
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: pool processes outlive a killed parent, waiting for work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _roll(task: Task, seed: int, kind: int, start: int, stop: int) -> list[tuple[Episode, int]]:
    """Episodes start to stop - 1 of one kind, with their reset seeds."""
    import gymnasium

    import raymix.envs  # noqa: F401  (registers the environment)
    from raymix.envs.fetch import EXPERT_NOISE, FetchMultiGoal, with_noise

    environment = gymnasium.make(task.environment)
    robot = environment.unwrapped
    assert isinstance(robot, FetchMultiGoal)
    rolled = []
    for index in range(start, stop):
        sequence = np.random.SeedSequence([seed, kind, index])
        reset_seed = int(sequence.generate_state(1)[0])
        generator = np.random.default_rng(sequence)
        goal = index % len(SOURCES) if kind == _EXPERT else 0
        observation, _ = environment.reset(seed=reset_seed)
        observations, actions, rewards = [observation], [], []
        truncated = False
        while not truncated:
            if kind == _RANDOM:
                action = generator.uniform(-1.0, 1.0, 4).astype(np.float32)
            else:
                noise = EXPERT_NOISE * generator.standard_normal(4)
                action = with_noise(robot.expert(observation, robot.goals[goal]), noise)
            observation, reward, _, truncated, _ = environment.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
        flags = np.zeros(len(rewards), dtype=bool)
        truncations = flags.copy()
        truncations[-1] = True
        episode = Episode(
            np.array(observations), np.array(actions), np.array(rewards, dtype=np.float32), flags, truncations, goal
        )
        rolled.append((episode, reset_seed))
    environment.close()
    return rolled
