"""Tasks of an Android phone as data: AndroidWorld's 116 tasks, and lists of instructions; standard library only.

Names, complexities and apps are those of google-research/android_world at d9c569f: the family `android_world`, 91 tasks
with a state to reach and 25 questions to answer. Their instructions have random parameters, so a task does not list its
contexts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """Row of TASKS.

    Args:
        reward: What is rewarded.
        horizon: Step limit of an episode.
        success: When an episode is a success.
        apps: The apps of the task, by AndroidWorld's names.
        prompt: Recommended prompt.
    """

    reward: str
    horizon: int
    success: str
    apps: tuple[str, ...] = ()
    prompt: str = "phone/all/goal"


def world(complexity: float, *apps: str) -> Task:
    """Return the row of a task of AndroidWorld.

    Args:
        complexity: AndroidWorld's complexity; the step limit is ten times as much.
        apps: The apps of the task.
    """
    return Task(
        reward="AndroidWorld's score, 0 to 1, once the agent has declared the end",
        horizon=int(10 * complexity),
        success="AndroidWorld's check of the phone, once the agent has declared the end",
        apps=apps,
    )


INSTRUCTIONS = "instructions"  # the task of a list of instructions
MOBILEGYM = "mobilegym"  # any task of MobileGym
TASKS: dict[str, Task] = {
    "instructions": Task(
        reward="none: a success evaluator judges the recorded screens",
        horizon=20,  # DigiRL's limit for web shopping; 10 for general tasks
        success="unknown on the phone, so false: a success evaluator judges the recorded screens",
    ),
    "mobilegym": Task(
        reward="1 if environment_options.task_id is done without side effects, once the agent has declared the end",
        horizon=60,  # the longest; MobileGym's limit of a task is 15, 30, 45 or 60
        success="MobileGym's check of the state, once the agent has declared the end",
    ),
    "AudioRecorderRecordAudio": world(1.2, "audio recorder"),
    "AudioRecorderRecordAudioWithFileName": world(2, "audio recorder"),
    "BrowserDraw": world(2, "chrome"),
    "BrowserMaze": world(2, "chrome"),
    "BrowserMultiply": world(2.2, "chrome"),
    "CameraTakePhoto": world(1, "camera"),
    "CameraTakeVideo": world(1, "camera"),
    "ClockStopWatchPausedVerify": world(1, "clock"),
    "ClockStopWatchRunning": world(1, "clock"),
    "ClockTimerEntry": world(1, "clock"),
    "ContactsAddContact": world(1.2, "contacts"),
    "ContactsNewContactDraft": world(1.2, "contacts"),
    "ExpenseAddMultiple": world(6, "pro expense"),
    "ExpenseAddMultipleFromGallery": world(6, "pro expense", "simple gallery pro"),
    "ExpenseAddMultipleFromMarkor": world(6, "pro expense", "markor"),
    "ExpenseAddSingle": world(1.2, "pro expense"),
    "ExpenseDeleteDuplicates": world(1.2, "pro expense"),
    "ExpenseDeleteDuplicates2": world(1.8, "pro expense"),
    "ExpenseDeleteMultiple": world(2, "pro expense"),
    "ExpenseDeleteMultiple2": world(3.4, "pro expense"),
    "ExpenseDeleteSingle": world(1, "pro expense"),
    "FilesDeleteFile": world(2.2, "files"),
    "FilesMoveFile": world(2, "files"),
    "MarkorAddNoteHeader": world(1.2, "markor"),
    "MarkorChangeNoteContent": world(1.2, "markor"),
    "MarkorCreateFolder": world(1, "markor"),
    "MarkorCreateNote": world(1.6, "markor"),
    "MarkorCreateNoteAndSms": world(1.8, "markor", "simple sms messenger"),
    "MarkorCreateNoteFromClipboard": world(1.4, "markor", "clipper"),
    "MarkorDeleteAllNotes": world(1.4, "markor"),
    "MarkorDeleteNewestNote": world(1, "markor"),
    "MarkorDeleteNote": world(1, "markor"),
    "MarkorEditNote": world(1.2, "markor"),
    "MarkorMergeNotes": world(7.8, "markor"),
    "MarkorMoveNote": world(1.4, "markor"),
    "MarkorTranscribeReceipt": world(1.8, "simple gallery pro", "markor"),
    "MarkorTranscribeVideo": world(2, "markor", "vlc"),
    "NotesIsTodo": world(1, "joplin"),
    "NotesMeetingAttendeeCount": world(1, "joplin"),
    "NotesRecipeIngredientCount": world(1, "joplin"),
    "NotesTodoItemCount": world(1, "joplin"),
    "OpenAppTaskEval": world(1, "camera", "clock", "contacts", "settings", "dialer"),
    "OsmAndFavorite": world(1.3, "osmand"),
    "OsmAndMarker": world(2, "osmand"),
    "OsmAndTrack": world(12, "osmand"),
    "RecipeAddMultipleRecipes": world(6, "broccoli app"),
    "RecipeAddMultipleRecipesFromImage": world(6, "broccoli app", "simple gallery pro"),
    "RecipeAddMultipleRecipesFromMarkor": world(6, "broccoli app", "markor"),
    "RecipeAddMultipleRecipesFromMarkor2": world(6, "broccoli app", "markor"),
    "RecipeAddSingleRecipe": world(2.4, "broccoli app"),
    "RecipeDeleteDuplicateRecipes": world(1, "broccoli app"),
    "RecipeDeleteDuplicateRecipes2": world(2.4, "broccoli app"),
    "RecipeDeleteDuplicateRecipes3": world(3.4, "broccoli app"),
    "RecipeDeleteMultipleRecipes": world(2.4, "broccoli app"),
    "RecipeDeleteMultipleRecipesWithConstraint": world(4, "broccoli app"),
    "RecipeDeleteMultipleRecipesWithNoise": world(3.4, "broccoli app"),
    "RecipeDeleteSingleRecipe": world(1, "broccoli app"),
    "RecipeDeleteSingleWithRecipeWithNoise": world(2, "broccoli app"),
    "RetroCreatePlaylist": world(2.4, "retro music"),
    "RetroPlayingQueue": world(3.2, "retro music"),
    "RetroPlaylistDuration": world(3, "retro music"),
    "RetroSavePlaylist": world(5, "retro music"),
    "SaveCopyOfReceiptTaskEval": world(1.6, "simple gallery pro"),
    "SimpleCalendarAddOneEvent": world(3.4, "simple calendar pro"),
    "SimpleCalendarAddOneEventInTwoWeeks": world(3.4, "simple calendar pro"),
    "SimpleCalendarAddOneEventRelativeDay": world(3.4, "simple calendar pro"),
    "SimpleCalendarAddOneEventTomorrow": world(3.4, "simple calendar pro"),
    "SimpleCalendarAddRepeatingEvent": world(3.4, "simple calendar pro"),
    "SimpleCalendarAnyEventsOnDate": world(1, "simple calendar pro"),
    "SimpleCalendarDeleteEvents": world(1.4, "simple calendar pro"),
    "SimpleCalendarDeleteEventsOnRelativeDay": world(1.2, "simple calendar pro"),
    "SimpleCalendarDeleteOneEvent": world(1.2, "simple calendar pro"),
    "SimpleCalendarEventOnDateAtTime": world(1, "simple calendar pro"),
    "SimpleCalendarEventsInNextWeek": world(1, "simple calendar pro"),
    "SimpleCalendarEventsInTimeRange": world(1, "simple calendar pro"),
    "SimpleCalendarEventsOnDate": world(1, "simple calendar pro"),
    "SimpleCalendarFirstEventAfterStartTime": world(1, "simple calendar pro"),
    "SimpleCalendarLocationOfEvent": world(1, "simple calendar pro"),
    "SimpleCalendarNextEvent": world(1, "simple calendar pro"),
    "SimpleCalendarNextMeetingWithPerson": world(1, "simple calendar pro"),
    "SimpleDrawProCreateDrawing": world(1.8, "simple draw pro"),
    "SimpleSmsReply": world(1.2, "simple sms messenger"),
    "SimpleSmsReplyMostRecent": world(1.2, "simple sms messenger"),
    "SimpleSmsResend": world(1.2, "simple sms messenger"),
    "SimpleSmsSend": world(1.2, "simple sms messenger"),
    "SimpleSmsSendClipboardContent": world(1.2, "simple sms messenger", "clipper"),
    "SimpleSmsSendReceivedAddress": world(1.8, "simple sms messenger"),
    "SportsTrackerActivitiesCountForWeek": world(1, "open tracks sports tracker"),
    "SportsTrackerActivitiesOnDate": world(2, "open tracks sports tracker"),
    "SportsTrackerActivityDuration": world(1, "open tracks sports tracker"),
    "SportsTrackerLongestDistanceActivity": world(1, "open tracks sports tracker"),
    "SportsTrackerTotalDistanceForCategoryOverInterval": world(2, "open tracks sports tracker"),
    "SportsTrackerTotalDurationForCategoryThisWeek": world(1, "open tracks sports tracker"),
    "SystemBluetoothTurnOff": world(1, "settings"),
    "SystemBluetoothTurnOffVerify": world(1, "settings"),
    "SystemBluetoothTurnOn": world(1, "settings"),
    "SystemBluetoothTurnOnVerify": world(1, "settings"),
    "SystemBrightnessMax": world(1, "settings"),
    "SystemBrightnessMaxVerify": world(1, "settings"),
    "SystemBrightnessMin": world(1, "settings"),
    "SystemBrightnessMinVerify": world(1, "settings"),
    "SystemCopyToClipboard": world(1, "clipper"),
    "SystemWifiTurnOff": world(1, "settings"),
    "SystemWifiTurnOffVerify": world(1, "settings"),
    "SystemWifiTurnOn": world(1, "settings"),
    "SystemWifiTurnOnVerify": world(1, "settings"),
    "TasksCompletedTasksForDate": world(1, "tasks"),
    "TasksDueNextWeek": world(1, "tasks"),
    "TasksDueOnDate": world(1, "tasks"),
    "TasksHighPriorityTasks": world(1, "tasks"),
    "TasksHighPriorityTasksDueOnDate": world(1, "tasks"),
    "TasksIncompleteTasksOnDate": world(1, "tasks"),
    "TurnOffWifiAndTurnOnBluetooth": world(2, "settings"),
    "TurnOnWifiAndOpenApp": world(2, "settings"),
    "VlcCreatePlaylist": world(2.8, "vlc"),
    "VlcCreateTwoPlaylists": world(4.8, "vlc"),
}
