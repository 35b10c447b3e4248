"""Tasks in the app Clock."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add, alarm
from ..state import Document, get
from ..template import Parameters, Template


class ClockTimerEntry(Template):
    """Enter a timer without starting it."""

    text = "Create a timer with {hours} hours, {minutes} minutes and {seconds} seconds. Do not start the timer"
    apps = ("Clock",)
    complexity = 2.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"hours": rng.randint(0, 9), "minutes": rng.randint(1, 59), "seconds": rng.randint(0, 59)}

    def solve(self, state: Document) -> None:
        p = self.params
        add(state, "timers", seconds=3600 * p["hours"] + 60 * p["minutes"] + p["seconds"], running=False)


class ClockStopWatchRunning(Template):
    """Start the stopwatch."""

    text = "Run the stopwatch"
    apps = ("Clock",)
    free = ("stopwatch/elapsed_s",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {}

    def solve(self, state: Document) -> None:
        state["stopwatch"]["running"] = True


class ClockStopWatchPaused(Template):
    """Pause the stopwatch, which runs."""

    text = "Pause the stopwatch"
    apps = ("Clock",)
    free = ("stopwatch/elapsed_s",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        state["stopwatch"] = {"running": True, "elapsed_s": rng.randint(10, 500), "laps": 0}
        return {}

    def solve(self, state: Document) -> None:
        state["stopwatch"]["running"] = False


class ClockStopWatchPausedVerify(Template):
    """Check that the stopwatch is paused; the episode must end in the app Clock."""

    text = "Make sure in Clock that the stopwatch is paused"
    apps = ("Clock",)
    verify = True

    def prepare(self, state: Document, rng: Random) -> Parameters:
        state["stopwatch"] = {"running": False, "elapsed_s": rng.randint(10, 500), "laps": 0}
        return {}

    def solve(self, state: Document) -> None:
        state["screen"]["app"] = "Clock"

    def reached(self, state: Document) -> bool:
        return bool(state["screen"]["app"] == "Clock")


def new_time(state: Document, rng: Random) -> str:
    """Return a time at which no alarm rings."""
    known = {row["time"] for row in state["alarms"]}
    times = [f"{hour:02}:{minute:02}" for hour in range(5, 23) for minute in range(0, 60, 5)]
    return rng.choice([time for time in times if time not in known])


class ClockAddAlarm(Template):
    """Add an alarm."""

    text = "Set an alarm for {time} with the label {label}"
    apps = ("Clock",)
    complexity = 2.0

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"time": new_time(state, rng), "label": rng.choice(words.ALARM_LABELS)}

    def solve(self, state: Document) -> None:
        add(state, "alarms", time=self.params["time"], label=self.params["label"], on=True, days=[])


class AlarmTask(Template):
    """Task about an alarm at a time of its own."""

    apps = ("Clock",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        time = new_time(state, rng)
        add(state, "alarms", **{**alarm(rng), "time": time, "on": True})
        rng.shuffle(state["alarms"])
        return {"time": time, "id": next(row["id"] for row in state["alarms"] if row["time"] == time)}


class ClockTurnOffAlarm(AlarmTask):
    """Turn an alarm off without deleting it."""

    text = "Turn off the alarm at {time}"

    def solve(self, state: Document) -> None:
        get(state, f"alarms/{self.params['id']}")["on"] = False


class ClockDeleteAlarm(AlarmTask):
    """Delete an alarm."""

    text = "Delete the alarm at {time}"
    complexity = 1.2

    def solve(self, state: Document) -> None:
        state["alarms"].remove(get(state, f"alarms/{self.params['id']}"))


class ClockAddWorldClock(Template):
    """Add a city to the world clocks."""

    text = "Add {city} to the world clock"
    apps = ("Clock",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"city": rng.choice([city for city in words.CITIES if city not in state["world_clocks"]])}

    def solve(self, state: Document) -> None:
        state["world_clocks"].append(self.params["city"])
