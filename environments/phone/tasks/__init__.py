"""The task templates of the phone, one file for each app; a new file or class needs no entry in a list."""
