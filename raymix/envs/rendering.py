"""Whether an environment can be drawn on this machine, and by which of MuJoCo's ways to OpenGL.

Asked of a process of its own, which draws one picture: a library that is missing or broken may end a process without
an exception.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np

from raymix.envs.build import build_environment
from raymix.types import UsageError

GL = "MUJOCO_GL"
"""Says how MuJoCo draws: egl (a GPU, or Mesa's software), osmesa (software), glfw (a display)."""
WITHOUT_DISPLAY = ("egl", "osmesa")
_PATIENCE_S = 120
_USES_MUJOCO = "uses MuJoCo"
_DRAWN = "drawn"


def prepare_drawing(description: str, name: str) -> str | None:
    """Make sure that this process can draw an environment; `description` as in `build_environment`, `name` for people.

    Sets MUJOCO_GL where it is not set and MuJoCo's own choice does not work, which on a machine without a display it
    does not. Returns what it was set to, if it was.

    Raises:
        UsageError: it cannot be drawn, with what each way failed of.
    """
    chosen: tuple[str | None, ...] = (None,)
    if not os.environ.get(GL) and sys.platform == "linux":
        display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        chosen = (None, *WITHOUT_DISPLAY) if display else WITHOUT_DISPLAY
    problems = []
    for way in chosen:
        uses_mujoco, problem = _try(description, way)
        if problem is None:
            if uses_mujoco and way:
                os.environ[GL] = way
                return way
            return None
        if not uses_mujoco:
            raise UsageError(f"{name} cannot be drawn here ({problem}); install what it needs, or leave out --video")
        problems.append(f"{GL}={way or os.environ.get(GL, '')}: {problem}")
    unset = "" if len(chosen) > 1 else f" and unset {GL}"
    raise UsageError(
        f"{name} cannot be drawn here ({'; '.join(problems)}); `apt-get install libegl1 libosmesa6`{unset}, whereupon"
        f" {GL}=egl or {GL}=osmesa works without a display, or leave out --video"
    )


def _try(description: str, way: str | None) -> tuple[bool, str | None]:
    """Whether MuJoCo simulates it, and what went wrong in words."""
    variables = {**os.environ, **({GL: way} if way else {})}
    command = [sys.executable, "-m", "raymix.envs.rendering", description]
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return True, f"no picture within {_PATIENCE_S} s"
    told = done.stdout.splitlines()
    if _DRAWN in told:
        return _USES_MUJOCO in told, None
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    last = errors[-1].strip() if errors else "no message"
    if done.returncode < 0:
        last = f"ended by {signal.Signals(-done.returncode).name}; {last}"
    return _USES_MUJOCO in told, last


def main() -> None:
    """Draw one picture of the environment that the command line describes, and say so."""
    try:
        environment = build_environment(sys.argv[1], render_mode="rgb_array")
        if "mujoco" in sys.modules:
            print(_USES_MUJOCO, flush=True)
        environment.reset(seed=0)
        picture = environment.render()
        if not (isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[-1] == 3):
            raise TypeError(f"its picture is {type(picture).__name__}, not an array of height x width x 3")
    except Exception as error:  # whatever somebody's environment raises
        print(" ".join(f"{type(error).__name__}: {error}".split()), file=sys.stderr, flush=True)
        os._exit(1)  # at once: a half-made renderer prints more when it is taken apart
    print(_DRAWN, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
