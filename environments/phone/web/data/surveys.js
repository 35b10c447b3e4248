phone.data.surveys =
[
{"id": "visit", "title": "Plan a visit", "fields": [{"name": "Name", "kind": "text"}, {"name": "Email", "kind": "text"}, {"name": "Day", "kind": "choice", "options": ["Monday", "Wednesday", "Saturday"]}, {"name": "Guests", "kind": "choice", "options": ["1", "2", "3", "4"]}, {"name": "Guided tour", "kind": "check"}]},
{"id": "lunch", "title": "Lunch order", "fields": [{"name": "Name", "kind": "text"}, {"name": "Dish", "kind": "choice", "options": ["Soup", "Pasta", "Salad", "Curry"]}, {"name": "Drink", "kind": "choice", "options": ["Water", "Juice", "Tea"]}, {"name": "Note", "kind": "text"}]},
{"id": "feedback", "title": "Feedback", "fields": [{"name": "Email", "kind": "text"}, {"name": "Stars", "kind": "choice", "options": ["1", "2", "3", "4", "5"]}, {"name": "Comment", "kind": "text"}, {"name": "Contact me", "kind": "check"}]},
{"id": "bike", "title": "Rent a bike", "fields": [{"name": "Name", "kind": "text"}, {"name": "Phone", "kind": "text"}, {"name": "Size", "kind": "choice", "options": ["Small", "Medium", "Large"]}, {"name": "Helmet", "kind": "check"}, {"name": "Child seat", "kind": "check"}]}
]
