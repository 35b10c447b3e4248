phone.data.news =
[
{"id": "n1", "topic": "Local", "date": "2023-10-15", "title": "City opens new library", "text": "The new library on Mill Lane opened on Sunday. It has 40,000 books and a room for children. It is open from 9 to 18."},
{"id": "n2", "topic": "Local", "date": "2023-10-15", "title": "Bridge closed for repairs", "text": "The old stone bridge is closed until November 3. Buses use the north bridge."},
{"id": "n3", "topic": "Sports", "date": "2023-10-14", "title": "Rovers win in the rain", "text": "The Rovers beat the Lions 3 to 1 in front of 12,000 people. All goals came in the second half."},
{"id": "n4", "topic": "Sports", "date": "2023-10-13", "title": "Young swimmer sets a record", "text": "Mia Holm, 15, swam 100 metres in 56.2 seconds. It is a record for the region."},
{"id": "n5", "topic": "Science", "date": "2023-10-12", "title": "Small moon found near Saturn", "text": "Astronomers found a moon only two kilometres wide. They saw it with a telescope in Chile."},
{"id": "n6", "topic": "Science", "date": "2023-10-11", "title": "Bees like blue", "text": "In a field test bees chose blue flowers most often. Yellow came second."},
{"id": "n7", "topic": "Business", "date": "2023-10-10", "title": "Bakery opens third shop", "text": "Berg Bakery opened its third shop at the station. It employs 25 people now."},
{"id": "n8", "topic": "Business", "date": "2023-10-09", "title": "Train tickets get cheaper", "text": "From December a day ticket costs $7.50 instead of $9.00."},
{"id": "n9", "topic": "Weather", "date": "2023-10-15", "title": "Rain until Tuesday", "text": "The week begins with rain and 11 degrees. From Wednesday the sun returns."},
{"id": "n10", "topic": "Weather", "date": "2023-10-08", "title": "First frost in the hills", "text": "The first frost was measured on Saturday night at minus 2 degrees."},
{"id": "n11", "topic": "Culture", "date": "2023-10-07", "title": "Piano festival in spring", "text": "Thirty pianists will play in April. Tickets are on sale from January 15."},
{"id": "n12", "topic": "Culture", "date": "2023-10-06", "title": "Museum shows old maps", "text": "The museum shows 80 maps of the coast. The oldest one is from 1542."}
]
