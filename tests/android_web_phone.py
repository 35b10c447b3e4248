"""Remote module for tests: android_env with the web phone as its simulator."""

import __main__

__main__.make_packages("environments.android.remote")  # of worker.py, which does that for pr2l's own modules

from environments.android.checks import checks  # noqa: E402
from environments.android.device import Device, load  # noqa: E402
from environments.android.environment_screen import EnvironmentScreen, EnvironmentTask  # noqa: E402
from environments.android.remote import Phone  # noqa: E402
from environments.android.screen_simulator import ScreenSimulator  # noqa: E402
from environments.phone import environment as web  # noqa: E402

__all__ = ["checks", "make"]


class WebPhone(Phone):
    def __init__(self, env):
        self._env = env
        screen, size = EnvironmentScreen(env), env.observation_space["frame"].shape[:2]
        device = Device(load(ScreenSimulator(screen)), size, settle=0.0, wait=screen.wait)
        super().__init__(device, EnvironmentTask(screen, lambda: env.episode.task.step_limit()), size)

    def call(self, name, *arguments):
        return self._env.oracle_action()

    def close(self):
        super().close()
        self._env.close()


def make(task, options, *, split, labels):
    return WebPhone(web.make(task, web.Defaults(**options, actions="text"), split=split))
