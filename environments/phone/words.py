"""Names and texts that the generated states and the tasks draw from."""

FIRST_NAMES = (
    "Amelia", "Benjamin", "Carmen", "Diego", "Emma", "Fatima", "Grace", "Hana", "Ibrahim", "Julia", "Kenji", "Laura",
    "Martin", "Nadia", "Oliver", "Petra", "Quinn", "Rosa", "Samuel", "Tara", "Umar", "Vera", "William", "Xenia",
    "Yusuf", "Zoe",
)  # fmt: skip
LAST_NAMES = (
    "Adams", "Brown", "Costa", "Dubois", "Evans", "Fischer", "Garcia", "Hughes", "Ivanov", "Jensen", "Kowalski",
    "Lopez", "Moreau", "Nguyen", "Okafor", "Patel", "Rossi", "Schmidt", "Tanaka", "Underwood", "Vargas", "Weber",
    "Yamada", "Zhang",
)  # fmt: skip
MESSAGES = (
    "See you at the station", "The meeting moved to noon", "Happy birthday to you", "Can you call me later",
    "Dinner is ready", "I will be ten minutes late", "Thanks for the flowers", "Please bring the blue folder",
    "The train was on time", "Do not forget the tickets", "We arrived safely", "The doctor can see you on Friday",
    "Your parcel is at the door", "Lunch was great", "The garden looks lovely", "Let us meet in the park",
    "The printer works again", "My new address is 12 Mill Lane", "Good luck with the exam",
    "The keys are under the mat",
)  # fmt: skip
EVENT_TITLES = (
    "Team meeting", "Dentist", "Yoga class", "Lunch with Anna", "Piano lesson", "Project review", "Book club",
    "Car inspection", "Parent evening", "Budget talk", "Choir practice", "Haircut", "Football match", "Job interview",
    "Board games", "Vet visit", "Cooking course", "Status call", "House viewing", "Swimming",
)  # fmt: skip
LOCATIONS = ("Room 12", "Main office", "City park", "Library", "Cafe Luna", "Town hall", "Sports centre", "Online")
DESCRIPTIONS = ("Bring the notes", "Ask about the price", "Prepare three questions", "Invite the new colleague")
NOTE_TITLES = (
    "Shopping list", "Packing list", "Meeting notes", "Gift ideas", "Books to read", "Recipe for soup", "Travel plan",
    "Garden plan", "Film list", "Quotes", "Workout", "House rules", "Birthday plan", "Reading group", "Wine notes",
    "Project ideas", "Phone numbers", "Weekend plan", "Songs to learn", "Questions for Tom",
)  # fmt: skip
NOTE_BODIES = (
    "Milk, bread and apples", "Start early and take the first bus", "Three people agreed with the plan",
    "Ask Maria about the old map", "Water the plants twice a week", "Boil for twenty minutes and stir",
    "The second door on the left", "Buy paint before Saturday", "Call the landlord about the heating",
    "Less sugar next time", "Check the size of the window", "Practise every morning",
)  # fmt: skip
NOTE_FOLDERS = ("Personal", "Work", "Ideas")
EXPENSE_NAMES = (
    "Groceries", "Bus ticket", "Cinema", "Coffee", "Lunch", "Train ride", "Novel", "Phone bill", "Rent", "Shoes",
    "Concert", "Haircut", "Petrol", "Pharmacy", "Pizza", "Museum", "Gym", "Flowers", "Jacket", "Taxi",
)  # fmt: skip
CATEGORIES = ("Food", "Travel", "Housing", "Health", "Fun", "Other")
FILE_NAMES = {
    "Download": ("ticket.pdf", "manual.pdf", "invoice.pdf", "map.png", "setup.zip", "menu.pdf", "form.pdf"),
    "Documents": ("report.docx", "letter.docx", "budget.xlsx", "thesis.pdf", "contract.pdf", "notes.txt", "cv.pdf"),
    "Pictures": ("beach.jpg", "dog.jpg", "sunset.jpg", "family.png", "receipt.jpg", "house.jpg", "lake.png"),
    "Music": ("waltz.mp3", "anthem.mp3", "lullaby.mp3", "jazz.ogg", "interview.mp3", "rain.ogg", "birds.mp3"),
}
TASK_TITLES = (
    "Pay the rent", "Book the hotel", "Clean the windows", "Write the report", "Return the books", "Call the bank",
    "Renew the passport", "Fix the bike", "Order new glasses", "Plan the party", "Send the invoice", "Paint the fence",
    "Back up the laptop", "Buy stamps", "Sort the photos", "Water the garden", "Review the slides", "Wash the car",
    "Find a plumber", "Learn ten words",
)  # fmt: skip
ALARM_LABELS = ("Work", "School run", "Medicine", "Gym", "Early flight", "Nap", "Bread dough", "Laundry")
CITIES = ("London", "Paris", "Tokyo", "New York", "Sydney", "Cairo", "Mumbai", "Toronto", "Berlin", "Lima")
RINGTONES = ("Aurora", "Bells", "Crystal", "Marimba", "Ocean")
DEVICE_NAMES = ("My phone", "Blue phone", "Pocket", "Travel phone", "Spare phone", "Office phone")
ACCENTS = ("#6750a4", "#00639b", "#386a20", "#8c4a60", "#984716", "#006a6a")
NOTIFICATIONS = (
    ("Messages", "New message", "You have an unread message"),
    ("Calendar", "Reminder", "An event starts soon"),
    ("Tasks", "Due today", "A task is due today"),
    ("Shop", "Sale", "Lamps are cheaper this week"),
    ("Settings", "System update", "An update is ready"),
)
