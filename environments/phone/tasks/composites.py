"""Tasks of several templates in different apps."""

from __future__ import annotations

from ..template import Composite
from .calendar import SimpleCalendarAddOneEventTomorrow
from .clock import ClockStopWatchRunning, ClockTurnOffAlarm
from .contacts import ContactsAddContact
from .expenses import ExpenseAddSingle
from .files import FilesDeleteFile
from .general import OpenAppTaskEval
from .messages import SimpleSmsReply, SimpleSmsSend
from .notes import MarkorCreateNote, MarkorDeleteNote
from .settings import SystemBluetoothTurnOff, SystemWifiTurnOn
from .tasks import TasksCompleteTask


class TurnOnWifiAndOpenApp(Composite):
    """Turn Wi-Fi on and open an app."""

    parts = (SystemWifiTurnOn, OpenAppTaskEval)


class MarkorCreateNoteAndSms(Composite):
    """Create a note and send a message."""

    parts = (MarkorCreateNote, SimpleSmsSend)


class AddContactAndEvent(Composite):
    """Add a contact and an event of tomorrow."""

    parts = (ContactsAddContact, SimpleCalendarAddOneEventTomorrow)


class TurnOffBluetoothAndRunStopWatch(Composite):
    """Turn Bluetooth off and start the stopwatch."""

    parts = (SystemBluetoothTurnOff, ClockStopWatchRunning)


class CleanUpNotesAndFiles(Composite):
    """Delete a note and a file."""

    parts = (MarkorDeleteNote, FilesDeleteFile)


class AddExpenseAndCompleteTask(Composite):
    """Add an expense and mark a task as done."""

    parts = (ExpenseAddSingle, TasksCompleteTask)


class TurnOffAlarmAndReply(Composite):
    """Turn an alarm off and answer a message."""

    parts = (ClockTurnOffAlarm, SimpleSmsReply)
