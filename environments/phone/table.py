"""TASKS of the phone: one row for each template, and sets of templates from which each episode draws one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .library import templates
from .template import Template

# One or two short templates of each app.
MINI = (
    "SystemWifiTurnOn",
    "SystemBluetoothTurnOff",
    "SystemDoNotDisturbTurnOn",
    "ContactsStarContact",
    "ContactsDeleteContact",
    "ClockStopWatchRunning",
    "ClockTurnOffAlarm",
    "MarkorDeleteNote",
    "ExpenseDeleteSingle",
    "FilesDeleteFile",
    "TasksCompleteTask",
    "SimpleSmsSend",
)


@dataclass(frozen=True)
class Task:
    """Row of TASKS: a template, or a set of templates.

    Args:
        select: The name of a template; "mini" for MINI; "all"; or the family of templates, such as "webshop".
    """

    select: str
    reward: str = "1 for success, else 0"
    prompt: str = "phone/all/goal"
    contexts: None = None  # free-form instructions

    def templates(self) -> dict[str, type[Template]]:
        """Return the templates by name."""
        known = templates()
        if self.select in known:
            return {self.select: known[self.select]}
        return {name: cls for name, cls in known.items() if self._has(name, cls)}

    def _has(self, name: str, cls: type[Template]) -> bool:
        return self.select == "all" or cls.family == self.select or (self.select == "mini" and name in MINI)

    @property
    def horizon(self) -> int:
        """The limit of steps of the longest template."""
        return longest(self.templates().values())

    @property
    def success(self) -> str:
        """The success rule, or what the set contains."""
        chosen = list(self.templates().values())
        return f"{len(chosen)} templates" if len(chosen) != 1 else (chosen[0].__doc__ or "").partition("\n")[0]


def longest(classes: Iterable[type[Template]]) -> int:
    """Return the largest limit of steps of some templates."""
    return max(cls.step_limit() for cls in classes)


TASKS: dict[str, Task] = {
    "mini": Task("mini"),
    "webshop": Task("webshop"),
    "general": Task("general"),
    "all": Task("all"),
    "WebShopGoTo": Task("WebShopGoTo"),
    "WebShopSearch": Task("WebShopSearch"),
    "WebShopOpenFirst": Task("WebShopOpenFirst"),
    "WebShopAddFirstToCart": Task("WebShopAddFirstToCart"),
    "WebShopCheapest": Task("WebShopCheapest"),
    "BrowserAddBookmark": Task("BrowserAddBookmark"),
    "BrowserFillForm": Task("BrowserFillForm"),
    "SimpleCalendarAddOneEvent": Task("SimpleCalendarAddOneEvent"),
    "SimpleCalendarAddOneEventTomorrow": Task("SimpleCalendarAddOneEventTomorrow"),
    "SimpleCalendarAddOneEventRelativeDay": Task("SimpleCalendarAddOneEventRelativeDay"),
    "SimpleCalendarAddOneEventInTwoWeeks": Task("SimpleCalendarAddOneEventInTwoWeeks"),
    "SimpleCalendarDeleteOneEvent": Task("SimpleCalendarDeleteOneEvent"),
    "SimpleCalendarDeleteEvents": Task("SimpleCalendarDeleteEvents"),
    "SimpleCalendarDeleteEventsOnRelativeDay": Task("SimpleCalendarDeleteEventsOnRelativeDay"),
    "SimpleCalendarEventsOnDate": Task("SimpleCalendarEventsOnDate"),
    "SimpleCalendarNextEvent": Task("SimpleCalendarNextEvent"),
    "SimpleCalendarLocationOfEvent": Task("SimpleCalendarLocationOfEvent"),
    "SimpleCalendarEventOnDateAtTime": Task("SimpleCalendarEventOnDateAtTime"),
    "SimpleCalendarFirstEventAfterStartTime": Task("SimpleCalendarFirstEventAfterStartTime"),
    "SimpleCalendarEventsInTimeRange": Task("SimpleCalendarEventsInTimeRange"),
    "ClockTimerEntry": Task("ClockTimerEntry"),
    "ClockTimerStart": Task("ClockTimerStart"),
    "ClockTimerDelete": Task("ClockTimerDelete"),
    "ClockStopWatchRunning": Task("ClockStopWatchRunning"),
    "ClockStopWatchPaused": Task("ClockStopWatchPaused"),
    "ClockStopWatchPausedVerify": Task("ClockStopWatchPausedVerify"),
    "ClockAddAlarm": Task("ClockAddAlarm"),
    "ClockTurnOffAlarm": Task("ClockTurnOffAlarm"),
    "ClockDeleteAlarm": Task("ClockDeleteAlarm"),
    "ClockAddWorldClock": Task("ClockAddWorldClock"),
    "ContactsAddContact": Task("ContactsAddContact"),
    "ExpenseAddSingle": Task("ExpenseAddSingle"),
    "FilesDeleteFile": Task("FilesDeleteFile"),
    "OpenAppTaskEval": Task("OpenAppTaskEval"),
    "SimpleSmsReply": Task("SimpleSmsReply"),
    "SimpleSmsSend": Task("SimpleSmsSend"),
    "MarkorCreateNote": Task("MarkorCreateNote"),
    "MarkorDeleteNote": Task("MarkorDeleteNote"),
    "SystemBluetoothTurnOff": Task("SystemBluetoothTurnOff"),
    "SystemWifiTurnOn": Task("SystemWifiTurnOn"),
    "TasksCompleteTask": Task("TasksCompleteTask"),
    "TurnOnWifiAndOpenApp": Task("TurnOnWifiAndOpenApp"),
    "MarkorCreateNoteAndSms": Task("MarkorCreateNoteAndSms"),
    "AddContactAndEvent": Task("AddContactAndEvent"),
    "TurnOffBluetoothAndRunStopWatch": Task("TurnOffBluetoothAndRunStopWatch"),
    "CleanUpNotesAndFiles": Task("CleanUpNotesAndFiles"),
    "AddExpenseAndCompleteTask": Task("AddExpenseAndCompleteTask"),
    "TurnOffAlarmAndReply": Task("TurnOffAlarmAndReply"),
    "ContactsNewContactDraft": Task("ContactsNewContactDraft"),
    "ContactsEditNumber": Task("ContactsEditNumber"),
    "ContactsDeleteContact": Task("ContactsDeleteContact"),
    "ContactsStarContact": Task("ContactsStarContact"),
    "ContactsNumberOf": Task("ContactsNumberOf"),
    "ExpenseAddMultiple": Task("ExpenseAddMultiple"),
    "ExpenseDeleteSingle": Task("ExpenseDeleteSingle"),
    "ExpenseDeleteMultiple": Task("ExpenseDeleteMultiple"),
    "ExpenseDeleteDuplicates": Task("ExpenseDeleteDuplicates"),
    "ExpenseAmountOf": Task("ExpenseAmountOf"),
    "ExpenseAddFromNote": Task("ExpenseAddFromNote"),
    "FilesMoveFile": Task("FilesMoveFile"),
    "FilesRenameFile": Task("FilesRenameFile"),
    "FilesNumberInFolder": Task("FilesNumberInFolder"),
    "GeneralHowDoI": Task("GeneralHowDoI"),
    "GeneralSearch": Task("GeneralSearch"),
    "GeneralWhatIs": Task("GeneralWhatIs"),
    "GeneralFactOf": Task("GeneralFactOf"),
    "GeneralReadNews": Task("GeneralReadNews"),
    "GeneralShowDay": Task("GeneralShowDay"),
    "GeneralShowSettings": Task("GeneralShowSettings"),
    "GeneralShowContact": Task("GeneralShowContact"),
    "GeneralShowConversation": Task("GeneralShowConversation"),
    "GeneralDarkTheme": Task("GeneralDarkTheme"),
    "SimpleSmsReplyMostRecent": Task("SimpleSmsReplyMostRecent"),
    "SimpleSmsResend": Task("SimpleSmsResend"),
    "SimpleSmsSendReceivedAddress": Task("SimpleSmsSendReceivedAddress"),
    "MessagesDeleteThread": Task("MessagesDeleteThread"),
    "MessagesLastFrom": Task("MessagesLastFrom"),
    "MarkorDeleteAllNotes": Task("MarkorDeleteAllNotes"),
    "MarkorEditNote": Task("MarkorEditNote"),
    "MarkorChangeNoteTitle": Task("MarkorChangeNoteTitle"),
    "MarkorChangeNoteContent": Task("MarkorChangeNoteContent"),
    "MarkorMergeNotes": Task("MarkorMergeNotes"),
    "MarkorMoveNote": Task("MarkorMoveNote"),
    "NotesPinNote": Task("NotesPinNote"),
    "NotesFolderOfNote": Task("NotesFolderOfNote"),
    "NotesMeetingAttendeeCount": Task("NotesMeetingAttendeeCount"),
    "SystemWifiTurnOff": Task("SystemWifiTurnOff"),
    "SystemWifiTurnOnVerify": Task("SystemWifiTurnOnVerify"),
    "SystemWifiTurnOffVerify": Task("SystemWifiTurnOffVerify"),
    "SystemBluetoothTurnOn": Task("SystemBluetoothTurnOn"),
    "SystemBluetoothTurnOnVerify": Task("SystemBluetoothTurnOnVerify"),
    "SystemBluetoothTurnOffVerify": Task("SystemBluetoothTurnOffVerify"),
    "SystemBrightnessMax": Task("SystemBrightnessMax"),
    "SystemBrightnessMin": Task("SystemBrightnessMin"),
    "SystemBrightnessMaxVerify": Task("SystemBrightnessMaxVerify"),
    "SystemBrightnessMinVerify": Task("SystemBrightnessMinVerify"),
    "TurnOffWifiAndTurnOnBluetooth": Task("TurnOffWifiAndTurnOnBluetooth"),
    "SystemDoNotDisturbTurnOn": Task("SystemDoNotDisturbTurnOn"),
    "SystemLocationTurnOff": Task("SystemLocationTurnOff"),
    "SystemSetScreenTimeout": Task("SystemSetScreenTimeout"),
    "SystemRenameDevice": Task("SystemRenameDevice"),
    "ShopAddToCart": Task("ShopAddToCart"),
    "ShopAddToWishlist": Task("ShopAddToWishlist"),
    "ShopOrder": Task("ShopOrder"),
    "ShopRemoveFromCart": Task("ShopRemoveFromCart"),
    "ShopPriceOf": Task("ShopPriceOf"),
    "ShopTotalOfOrder": Task("ShopTotalOfOrder"),
    "TasksAddTask": Task("TasksAddTask"),
    "TasksDeleteTask": Task("TasksDeleteTask"),
    "TasksDueOnDate": Task("TasksDueOnDate"),
    "TasksDueTomorrow": Task("TasksDueTomorrow"),
    "TasksHighPriorityTasks": Task("TasksHighPriorityTasks"),
    "TasksCompletedTasksForDate": Task("TasksCompletedTasksForDate"),
    "TasksIncompleteTasksOnDate": Task("TasksIncompleteTasksOnDate"),
    "TasksHighPriorityTasksDueOnDate": Task("TasksHighPriorityTasksDueOnDate"),
}
