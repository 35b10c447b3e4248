"""Tasks in the app Clock."""

from __future__ import annotations

from random import Random

from .. import words
from ..generate import add, alarm
from ..state import Document, get
from ..template import Parameters, Template
from ..user import Actions, User


class TimerTask(Template):
    """Task about a timer of random length."""

    apps = ("Clock",)
    complexity = 1.6

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"hours": rng.randint(0, 9), "minutes": rng.randint(1, 59), "seconds": rng.randint(0, 59)}

    @property
    def digits(self) -> str:
        """The digits to enter, without zeros at the start."""
        p = self.params
        return f"{p['hours']:02}{p['minutes']:02}{p['seconds']:02}".lstrip("0")

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/Timer")
        yield from user.tap("Clock/New timer")
        for digit in self.digits:
            yield from user.tap(f"Clock/{digit}")


class ClockTimerEntry(TimerTask):
    """Enter a timer without starting it."""

    text = "Create a timer with {hours} hours, {minutes} minutes and {seconds} seconds. Do not start the timer"

    def solve(self, state: Document) -> None:
        state["screen"].update(app="Clock", page="timer", draft={"digits": self.digits})

    def reached(self, state: Document) -> bool:
        screen = state["screen"]
        return screen["page"] == "timer" and bool(screen.get("draft", {}).get("digits") == self.digits)


class ClockTimerStart(TimerTask):
    """Start a timer."""

    text = "Start a timer of {hours} hours, {minutes} minutes and {seconds} seconds"
    complexity = 1.8

    def solve(self, state: Document) -> None:
        p = self.params
        add(state, "timers", seconds=3600 * p["hours"] + 60 * p["minutes"] + p["seconds"], running=True)

    def script(self, user: User) -> Actions:
        yield from super().script(user)
        yield from user.tap("Clock/Start")


class ClockTimerDelete(Template):
    """Delete a timer."""

    text = "Delete the timer of {minutes} minutes"
    apps = ("Clock",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        known = {row["seconds"] for row in state["timers"]}
        minutes = rng.choice([number for number in range(5, 56) if 60 * number not in known])
        add(state, "timers", seconds=60 * minutes, running=rng.random() < 0.5)
        return {"minutes": minutes, "id": state["timers"][-1]["id"]}

    def solve(self, state: Document) -> None:
        state["timers"].remove(get(state, f"timers/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/Timer")
        yield from user.tap(f"Clock/Delete 00:{self.params['minutes']:02}:00")
        yield from user.tap("Clock/dialog/Delete")


class ClockStopWatchRunning(Template):
    """Start the stopwatch."""

    text = "Run the stopwatch"
    apps = ("Clock",)
    free = ("stopwatch/elapsed_s",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {}

    def solve(self, state: Document) -> None:
        state["stopwatch"]["running"] = True

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/Stopwatch")
        yield from user.tap("Clock/Start")


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

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/Stopwatch")
        yield from user.tap("Clock/Stop")


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

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/Stopwatch")


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

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/New alarm")
        yield from user.pick_time("Clock", "Time", self.params["time"])
        yield from user.type("Clock/Label", self.params["label"])
        yield from user.tap("Clock/Save")


class AlarmTask(Template):
    """Task about an alarm at a time of its own."""

    apps = ("Clock",)

    def prepare(self, state: Document, rng: Random) -> Parameters:
        time = new_time(state, rng)
        add(state, "alarms", **{**alarm(rng), "time": time, "on": True})
        rng.shuffle(state["alarms"])
        row = next(row for row in state["alarms"] if row["time"] == time)
        return {"time": time, "id": row["id"], "name": f"{time} {row['label']}"}


class ClockTurnOffAlarm(AlarmTask):
    """Turn an alarm off without deleting it."""

    text = "Turn off the alarm at {time}"

    def solve(self, state: Document) -> None:
        get(state, f"alarms/{self.params['id']}")["on"] = False

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap(f"Clock/{self.params['name']} switch")


class ClockDeleteAlarm(AlarmTask):
    """Delete an alarm."""

    text = "Delete the alarm at {time}"
    complexity = 1.2

    def solve(self, state: Document) -> None:
        state["alarms"].remove(get(state, f"alarms/{self.params['id']}"))

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap(f"Clock/{self.params['name']}")
        yield from user.tap("Clock/Delete")
        yield from user.tap("Clock/dialog/Delete")


class ClockAddWorldClock(Template):
    """Add a city to the world clocks."""

    text = "Add {city} to the world clock"
    apps = ("Clock",)
    complexity = 1.2

    def prepare(self, state: Document, rng: Random) -> Parameters:
        return {"city": rng.choice([city for city in words.CITIES if city not in state["world_clocks"]])}

    def solve(self, state: Document) -> None:
        state["world_clocks"].append(self.params["city"])

    def script(self, user: User) -> Actions:
        yield from user.open("Clock")
        yield from user.tap("Clock/World clock")
        yield from user.tap("Clock/Add city")
        yield from user.type("Clock/Search", self.params["city"])
        yield from user.tap(f"Clock/{self.params['city']}")
