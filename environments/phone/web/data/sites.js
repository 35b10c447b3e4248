phone.data.sites =
[
{"name": "Lookup", "url": "lookup.web", "icon": "travel_explore", "colour": "#1a73e8", "about": "Search the web"},
{"name": "Openpedia", "url": "openpedia.web", "icon": "menu_book", "colour": "#3c4043", "about": "The small encyclopedia"},
{"name": "Megamart", "url": "megamart.web", "icon": "local_mall", "colour": "#0b6e4f", "about": "Everything for the home"},
{"name": "Nutshell Books", "url": "nutshellbooks.web", "icon": "auto_stories", "colour": "#8a3324", "about": "Books by post"},
{"name": "Survey Corner", "url": "surveycorner.web", "icon": "fact_check", "colour": "#5e35b1", "about": "Say what you think"},
{"name": "Daily Page", "url": "dailypage.web", "icon": "newspaper", "colour": "#37474f", "about": "News of the day"}
]
